"""The trainer behind ``train_imagenet.py`` and ``dali-mix train``."""

from dali_mix.train.data import Pipelines as Pipelines
from dali_mix.train.run import main as main
