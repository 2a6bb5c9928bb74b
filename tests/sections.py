"""Options of the ready-made pipelines by their plain names, put into the sections that the pipelines take."""

import dataclasses

from dali_mix.data import Augmentation, Crop, Mixing, Output, Reading

TRAINING = {"crop": Crop, "augmentation": Augmentation, "mixing": Mixing, "output": Output, "reading": Reading}
VALIDATION = {"output": Output, "reading": Reading}


def sectioned(options, kinds=TRAINING):
    """The options with those that belong to sections in them, so that a test names just what it is about."""
    options = dict(options)
    for name, kind in kinds.items():
        own = {field.name for field in dataclasses.fields(kind)} & options.keys()
        if own:
            options[name] = kind(**{key: options.pop(key) for key in own})
    return options
