#!/usr/bin/env python3
"""Train an image classifier on ImageNet-style folders.  See ``--help``, or ``--demo`` to watch it work."""

import sys

from dali_mix.train import Pipelines, main
from pipelines.cifar import cifar_train, cifar_val
from pipelines.imagenet import imagenet_train, imagenet_val

PIPELINES: Pipelines = {"imagenet": (imagenet_train, imagenet_val), "cifar": (cifar_train, cifar_val)}

if __name__ == "__main__":
    sys.exit(main(PIPELINES))
