"""Drawn scenes, COCO folders, the transforms between file and model, and the batches."""
