"""Interactive pieces of the notebooks: a Python class and a plain ES module each, to anywidget's public interface."""

from detr_mini.widgets.assignment_timeline import AssignmentTimeline
from detr_mini.widgets.attention_explorer import AttentionExplorer
from detr_mini.widgets.boxlab import BoxLab
from detr_mini.widgets.matchinglab import MatchingLab
from detr_mini.widgets.position_explorer import PositionExplorer

__all__ = ["AssignmentTimeline", "AttentionExplorer", "BoxLab", "MatchingLab", "PositionExplorer"]
