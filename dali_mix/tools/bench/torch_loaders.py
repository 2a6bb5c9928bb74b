"""Loaders without DALI: timm's, and torchvision's v2 transforms on its own JPEG decoder."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, FastCollateMixup, ImageDataset, create_loader
from timm.data.readers.reader import Reader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, default_collate
from torchvision import io
from torchvision.transforms import InterpolationMode, v2

from dali_mix.data import ImageFolder
from dali_mix.tools.bench.setting import CUTMIX_ALPHA, MIXUP_ALPHA, SMOOTHING, Alternative, Batches, Setting

_EPOCHS = 1_000_000
"""More than are ever read.  One epoch's end and the next one's start then overlap, as within an epoch: short
epochs would tell against a loader that stops between them."""


class _FolderReader(Reader):
    """The files of a folder, as timm's datasets read them."""

    def __init__(self, folder: ImageFolder) -> None:
        super().__init__()
        self._folder = folder

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return open(self._folder.files[index], "rb"), self._folder.labels[index]

    def __len__(self) -> int:
        return len(self._folder)

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        return self._folder.files[index]


@contextmanager
def _open_timm(setting: Setting) -> Iterator[Batches]:
    """timm's loader as its ``train.py`` makes it: mixing in the collate function, normalising on the device."""
    loader = create_loader(
        ImageDataset(setting.folder.root, reader=_FolderReader(setting.folder)),
        input_size=(3, setting.img_size, setting.img_size),
        batch_size=setting.batch_size,
        is_training=True,
        color_jitter=0.0,
        interpolation=setting.interpolation,
        num_workers=setting.workers,
        collate_fn=FastCollateMixup(
            MIXUP_ALPHA, CUTMIX_ALPHA, label_smoothing=SMOOTHING, num_classes=setting.num_classes
        ),
        device=setting.device,
        use_multi_epochs_loader=True,
    )
    yield itertools.chain.from_iterable(itertools.repeat(loader))


class _Jpegs(Dataset):
    """Bytes of files and their labels, through a transform."""

    def __init__(self, folder: ImageFolder, transform: v2.Transform) -> None:
        self._folder = folder
        self._transform = transform

    def __len__(self) -> int:
        return len(self._folder)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        encoded = torch.frombuffer(_read(self._folder.files[index]), dtype=torch.uint8)
        return self._transform(encoded), self._folder.labels[index]


@contextmanager
def _open_torchvision(setting: Setting) -> Iterator[Batches]:
    """torchvision's v2 transforms and ``decode_jpeg`` on the device; on the CPU that is in the worker processes.

    On a GPU the processes only read, and the decoder gets whole batches, which its documentation calls for.
    torchvision's mixing does not smooth labels: it leaves that to the loss.
    """
    on_gpu = setting.device.type == "cuda"
    crop, normalize, mixing = _transforms(setting)
    decode = functools.partial(_decode, device=setting.device)
    per_image = v2.Identity() if on_gpu else v2.Compose([v2.Lambda(decode), crop, normalize])
    data = _Jpegs(setting.folder, per_image)
    loader = DataLoader(
        data,
        setting.batch_size,
        sampler=RandomSampler(data, num_samples=_EPOCHS * len(data)),
        num_workers=setting.workers,
        collate_fn=_collate_bytes if on_gpu else v2.Compose([default_collate, mixing]),
        pin_memory=on_gpu,
    )

    def on_device(batch: tuple[Sequence[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        images = torch.stack([crop(image) for image in decode(batch[0])])
        return mixing(normalize(images), batch[1].to(setting.device, non_blocking=True))

    yield map(on_device, loader) if on_gpu else iter(loader)


def _transforms(setting: Setting) -> tuple[v2.Transform, v2.Transform, v2.Transform]:
    """Crop and flip, normalise, mix."""
    crop = v2.RandomResizedCrop(setting.img_size, interpolation=InterpolationMode(setting.interpolation))
    normalize = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)]
    classes = {"num_classes": setting.num_classes}
    mixing = v2.RandomChoice([v2.MixUp(alpha=MIXUP_ALPHA, **classes), v2.CutMix(alpha=CUTMIX_ALPHA, **classes)])
    return v2.Compose([crop, v2.RandomHorizontalFlip()]), v2.Compose(normalize), mixing


def _read(path: str) -> bytearray:
    with open(path, "rb") as file:
        return bytearray(file.read())


def _decode(encoded: Any, device: torch.device) -> Any:
    """RGB images of one file's bytes, or of each of a list of them."""
    with warnings.catch_warnings():
        # Of torchvision 0.29: its decoders will move to TorchCodec.  Once an image, it would hide everything else.
        warnings.simplefilter("ignore", DeprecationWarning)
        return io.decode_jpeg(encoded, mode=io.ImageReadMode.RGB, device=device)


def _collate_bytes(samples: Sequence[tuple[Tensor, int]]) -> tuple[list[Tensor], Tensor]:
    encoded, labels = zip(*samples, strict=True)
    return list(encoded), torch.tensor(labels)


TORCH_LOADERS: Mapping[str, Alternative] = {
    "timm": Alternative(_open_timm, processes=True),
    "torchvision": Alternative(_open_torchvision, processes=True),
}
