"""Augmentation composed of DALI's own operators, for where there are no native ones."""

from dali_mix.fn.image.portable.augment import augment_images as augment_images

NAME = "portable"
