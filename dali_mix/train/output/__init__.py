"""What a run shows while it goes on and leaves behind to read: lines, ``summary.csv``, curves, trackers."""

from dali_mix.train.output.curves import draw_curves
from dali_mix.train.output.summary import Summary
from dali_mix.train.output.trackers import Trackers, WandbOptions
from dali_mix.train.progress import Progress, table

__all__ = ["Progress", "Summary", "Trackers", "WandbOptions", "draw_curves", "table"]
