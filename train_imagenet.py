#!/usr/bin/env python3
"""Train an image classifier on ImageNet-style folders.  See ``--help``, or ``--demo`` to watch it work."""

import sys

from dali_mix.train import main
from pipelines.imagenet import imagenet_train, imagenet_val

if __name__ == "__main__":
    sys.exit(main(imagenet_train, imagenet_val))
