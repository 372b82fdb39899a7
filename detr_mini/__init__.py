"""DETR, piece by piece: the finished pieces that the notebooks build and check."""
