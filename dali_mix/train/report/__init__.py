"""What a run shows while it goes on and leaves behind to read: lines, ``summary.csv``, curves, trackers."""

from dali_mix.train.report.curves import draw_curves
from dali_mix.train.report.progress import Progress, table
from dali_mix.train.report.summary import COLUMNS, Summary
from dali_mix.train.report.trackers import Trackers, WandbOptions

__all__ = ["COLUMNS", "Progress", "Summary", "Trackers", "WandbOptions", "draw_curves", "table"]
