"""What is trained on: the images, and how they are read."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dali_mix import native
from dali_mix.options import integer, option, positive_int, shortened

_free = partial(option, changes_weights=False)
_batch_size = integer(1, 1 << 20)


def dataset(text: str) -> str:
    """The kind of data, of which there is one; names of timm's other kinds get a line of what to do."""
    if text not in ("", "folder"):
        raise argparse.ArgumentTypeError(
            f"{shortened(text)!r} is not read here, only image folders are: leave the flag out and give --data-dir"
        )
    return text


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where the other settings come from."""

    config: Path | None = option(None, Path, "YAML file of flags; the command line overrides it.", metavar="FILE",
                                 aliases=("-c",), any_bytes=True, saved=False)  # fmt: skip
    recipe: str | None = option(None, None, "Published recipe to follow; --config and the command line override it.",
                                metavar="NAME", saved=False)  # fmt: skip
    imports: tuple[Path, ...] = _free((), Path,
        "Python files to run first: what they register, such as a mixing method, can then be chosen.", flag="import",
        nargs="+", metavar="FILE")  # fmt: skip
    demo: bool = _free(False, help="Make a small data set, and train a small ViT on it.", negatable=False)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the images are, and which of them."""

    data_dir: Path | None = _free(None, Path, "Folder with train/CLASS/*.jpg and val/CLASS/*.jpg.", metavar="DIR")
    dataset: str = option("", dataset, "Kind of data: image folders only.", metavar="KIND")
    train_split: str = _free("train", None, "Sub-folder of the training images.", metavar="NAME")
    val_split: str = _free("validation", None, "Sub-folder of the validation images; val is found too.", metavar="NAME")
    class_map: str = _free("", None, "Text file with one class folder a line, in label order; others are left out.",
                           metavar="FILE", path=True, any_bytes=True)  # fmt: skip
    pipeline: str = option("imagenet", None, "Ready-made pipeline: imagenet, or cifar (padded crop of small images).",
                           metavar="NAME")  # fmt: skip
    exclude_list: Path | None = _free(None, Path, "Text file of images to leave out, one path a line.", metavar="FILE",
                                      any_bytes=True)  # fmt: skip
    num_classes: int | None = _free(None, positive_int, "Number of classes, by default that of the class folders.",
                                    metavar="K")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the images are read."""

    batch_size: int = option(128, _batch_size, "Images per batch and rank.", metavar="N", aliases=("-b",))
    validation_batch_size: int | None = _free(None, _batch_size,
        "Images per validation batch and rank, by default --batch-size.", metavar="N", aliases=("-vb",))  # fmt: skip
    workers: int = _free(4, integer(1, 1024), "DALI's CPU threads per rank, to decode too.", metavar="N",
                         aliases=("-j",))  # fmt: skip
    dali_device: str | None = _free(None, None, "Backend of the pipelines, by default where the model is.",
                                    choices=("gpu", "cpu"))  # fmt: skip
    native: str = _free("auto", None,
        "Whether native operators mix and augment: auto where all ranks can have them, on in any case, or off.",
        choices=native.MODES)  # fmt: skip
    dali_prefetch: int = _free(2, integer(1, 1024), "Batches that DALI prepares ahead.", metavar="N")
