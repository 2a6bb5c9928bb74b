"""Loaders without DALI: timm's, and torchvision's v2 transforms on its own JPEG decoder."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from timm.data import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    FastCollateMixup,
    ImageDataset,
    auto_augment,
    create_loader,
)
from timm.data.readers.reader import Reader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, default_collate
from torchvision import io
from torchvision.transforms import InterpolationMode, v2

from dali_mix.sources.file_source import FileSource
from dali_mix.tools.bench.recipe import LEVELS, Recipe
from dali_mix.tools.bench.setting import (
    CUTMIX_ALPHA,
    MIXUP_ALPHA,
    SMOOTHING,
    Alternative,
    Batches,
    Setting,
    recipe_of,
)

_EPOCHS = 1_000_000
"""More than are ever read.  One epoch's end and the next one's start then overlap, as within an epoch: short
epochs would tell against a loader that stops between them."""


class _FolderReader(Reader):
    """The files of a folder, as timm's datasets read them."""

    def __init__(self, folder: FileSource) -> None:
        super().__init__()
        self._folder = folder

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return open(self._folder.files[index], "rb"), int(self._folder.labels[index])

    def __len__(self) -> int:
        return len(self._folder)

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        return self._folder.files[index]


@contextmanager
def _open_timm(setting: Setting) -> Iterator[Batches]:
    """timm's loader as its ``train.py`` makes it: mixing in the collate function, normalizing on the device."""
    mixing = {"mixup_alpha": MIXUP_ALPHA, "cutmix_alpha": CUTMIX_ALPHA, "label_smoothing": SMOOTHING}
    augmentation = {"color_jitter": 0.0, "interpolation": setting.interpolation}
    yield _timm_batches(setting, mixing, augmentation)


@contextmanager
def _open_timm_recipe(setting: Setting) -> Iterator[Batches]:
    """The same with the recipe's augmentation; erasing is on the device, on normalized images."""
    recipe = recipe_of(setting)
    crop, asked = recipe.settings.crop, recipe.settings.augmentation
    augmentation = {
        "no_aug": crop.no_aug,
        "scale": crop.scale,
        "ratio": crop.ratio,
        "interpolation": crop.interpolation,
        "hflip": asked.hflip,
        "vflip": asked.vflip,
        "color_jitter": asked.color_jitter,
        "color_jitter_prob": asked.color_jitter_prob,
        "grayscale_prob": asked.grayscale_prob,
        "gaussian_blur_prob": asked.gaussian_blur_prob,
        "auto_augment": asked.aa or None,
        "re_prob": asked.reprob,
        "re_mode": asked.remode,
        "re_count": asked.recount,
    }
    with _posterize_that_pillow_takes():
        batches = _timm_batches(setting, recipe.timm_mixup(), augmentation)
    yield batches


@contextmanager
def _posterize_that_pillow_takes() -> Iterator[None]:
    """Let timm's policies that are made meanwhile keep one bit where they would keep none.

    At a magnitude of 10, which noise on 9 can give, timm asks for none: Pillow 13 raises, and ends the loader.
    """
    operations = auto_augment.NAME_TO_OP
    timms = {name: operations[name] for name in operations if name.startswith("Posterize")}
    operations.update(dict.fromkeys(timms, _posterize))
    try:
        yield
    finally:
        operations.update(timms)


def _posterize(image: Any, bits_to_keep: int, **options: Any) -> Any:
    return auto_augment.posterize(image, max(1, bits_to_keep), **options)


def _timm_batches(setting: Setting, mixing: Mapping[str, Any], augmentation: Mapping[str, Any]) -> Batches:
    loader = create_loader(
        ImageDataset(setting.folder.root, reader=_FolderReader(setting.folder)),
        input_size=(3, setting.img_size, setting.img_size),
        batch_size=setting.batch_size,
        is_training=True,
        num_workers=setting.workers,
        collate_fn=FastCollateMixup(**mixing, num_classes=setting.num_classes),
        device=setting.device,
        use_multi_epochs_loader=True,
        **augmentation,
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


class _Jpegs(Dataset):
    """Bytes of files and their labels, through a transform."""

    def __init__(self, folder: FileSource, transform: v2.Transform) -> None:
        self._folder = folder
        self._transform = transform

    def __len__(self) -> int:
        return len(self._folder)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        encoded = torch.frombuffer(_read(self._folder.files[index]), dtype=torch.uint8)
        return self._transform(encoded), int(self._folder.labels[index])


@contextmanager
def _open_torchvision(make: Callable[[Setting], _Transforms], setting: Setting) -> Iterator[Batches]:
    """torchvision's v2 transforms and ``decode_jpeg`` on the device; on the CPU that is in the worker processes.

    On a GPU the processes only read, and the decoder gets whole batches, which its documentation calls for.
    torchvision's mixing does not smooth labels: it leaves that to the loss.
    """
    on_gpu = setting.device.type == "cuda"
    augment, normalize, erase, mixing = make(setting)
    decode = functools.partial(_decode, device=setting.device)
    per_image = v2.Identity() if on_gpu else v2.Compose([v2.Lambda(decode), augment, normalize, erase])
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
        images = normalize(torch.stack([augment(image) for image in decode(batch[0])]))
        if not isinstance(erase, v2.Identity):  # of a batch it would erase the same box in all images
            images = torch.stack([erase(image) for image in images])
        return mixing(images, batch[1].to(setting.device, non_blocking=True))

    yield map(on_device, loader) if on_gpu else iter(loader)


class _Transforms(NamedTuple):
    """The work on an image: crop, flip and augment, normalize, erase; and on a batch: mix."""

    augment: v2.Transform
    normalize: v2.Transform
    erase: v2.Transform
    mixing: v2.Transform


_NORMALIZE = v2.Compose(
    [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)]
)


def _plain_transforms(setting: Setting) -> _Transforms:
    """Flip, and Mixup or CutMix."""
    crop = v2.RandomResizedCrop(setting.img_size, interpolation=InterpolationMode(setting.interpolation))
    classes = {"num_classes": setting.num_classes}
    mixing = v2.RandomChoice([v2.MixUp(alpha=MIXUP_ALPHA, **classes), v2.CutMix(alpha=CUTMIX_ALPHA, **classes)])
    return _Transforms(v2.Compose([crop, v2.RandomHorizontalFlip()]), _NORMALIZE, v2.Identity(), mixing)


def _recipe_transforms(setting: Setting) -> _Transforms:
    """torchvision's counterparts of the recipe's augmentation, in timm's order."""
    recipe = recipe_of(setting)
    crop, wanted = recipe.settings.crop, recipe.augmentation
    steps: list[v2.Transform] = [
        v2.RandomResizedCrop(
            setting.img_size, crop.scale, crop.ratio, interpolation=InterpolationMode(setting.interpolation)
        ),
        v2.RandomHorizontalFlip(wanted.hflip),
        v2.RandomVerticalFlip(wanted.vflip),
    ]
    if recipe.rand_augment is not None:
        number, magnitude = recipe.rand_augment
        steps.append(v2.RandAugment(number, magnitude, num_magnitude_bins=LEVELS))
    elif wanted.aa:
        steps.append(v2.AutoAugment())
    if wanted.jitter:
        jitter = v2.ColorJitter(*wanted.jitter)
        steps.append(jitter if wanted.color_jitter_prob is None else v2.RandomApply([jitter], wanted.color_jitter_prob))
    steps += [v2.RandomGrayscale(wanted.grayscale_prob)] if wanted.grayscale_prob else []
    steps += [v2.RandomApply([v2.GaussianBlur(23)], wanted.gaussian_blur_prob)] if wanted.gaussian_blur_prob else []
    fill = 0.0 if wanted.remode == "const" else "random"
    erase = v2.RandomErasing(wanted.reprob, value=fill) if wanted.reprob else v2.Identity()
    return _Transforms(v2.Compose(steps), _NORMALIZE, erase, _recipe_mixing(recipe, setting.num_classes))


def _recipe_mixing(recipe: Recipe, num_classes: int) -> v2.Transform:
    shares = {name: share for name, share in recipe.choices.items() if name != "smmix"}
    alphas = {"cutmix": recipe.settings.methods.cutmix, "mixup": recipe.settings.methods.mixup}
    made = {"cutmix": v2.CutMix, "mixup": v2.MixUp}
    transforms = [made[name](alpha=alphas[name], num_classes=num_classes) for name in shares]
    rest = max(0.0, 1 - sum(shares.values()))
    return v2.RandomChoice([*transforms, v2.Identity()], p=[*shares.values(), rest])


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
    "torchvision": Alternative(functools.partial(_open_torchvision, _plain_transforms), processes=True),
    "timm_recipe": Alternative(_open_timm_recipe, processes=True, of_recipe=True),
    "torchvision_recipe": Alternative(
        functools.partial(_open_torchvision, _recipe_transforms),
        processes=True,
        of_recipe=True,
        lacks=("--aa 3a", "--aa rand-t...", "--mixup-mode", "--cutmix-minmax"),
    ),
}
