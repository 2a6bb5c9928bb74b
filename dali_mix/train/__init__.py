"""The trainer behind ``train_imagenet.py``."""

from dali_mix.train.datasets import Pipelines as Pipelines
from dali_mix.train.run import main as main
