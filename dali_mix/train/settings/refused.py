"""timm's flags that this trainer does not take, each with the reason."""

from __future__ import annotations

from collections.abc import Iterator

_DALI_FEEDS = "DALI feeds the GPU; --workers, --dali-prefetch and --dali-device are its settings"
_ONE_VIEW = "a batch holds one view of each image"
_FOLDERS = "data are image folders below --data-dir; DALI's reader lists and shuffles them"

REFUSED: dict[str, str] = {
    "--naflex": "NaFlex batches of several shapes do not come out of a DALI pipeline",
    "--kd-": "this trainer does not distil",
    "--distill-loss-weight": "this trainer does not distil",
    "--task-loss-weight": "this trainer does not distil",
    "--torchscript": "use --torchcompile",
    "--fuser": "use --torchcompile",
    "--aug-splits": _ONE_VIEW,
    "--jsd-loss": _ONE_VIEW,
    "--resplit": _ONE_VIEW,
    "--split-bn": _ONE_VIEW,
    "--aug-repeats": "DALI's reader has no repeated augmentation",
    "--patience-epochs": "it belongs to --sched plateau, which timm is about to remove",
    "--epoch-repeats": "use more --epochs",
    "--pin-mem": _DALI_FEEDS,
    "--no-prefetcher": _DALI_FEEDS,
    "--use-multi-epochs-loader": "the loader lives for the whole run already",
    "--worker-seeding": "--seed gives every random operator of the pipeline its stream",
    "--dataset-download": _FOLDERS,
    "--dataset-trust-remote-code": _FOLDERS,
    "--train-num-samples": _FOLDERS,
    "--val-num-samples": _FOLDERS,
    "--input-key": _FOLDERS,
    "--target-key": _FOLDERS,
    "--input-img-mode": "images are decoded to RGB",
    "--train-crop-mode": "the crop of training images is timm's default, the random resized crop",
    "--drop-connect": "use --drop-path",
    "--device-modules": "the devices are cuda and cpu",
    "--model-dtype": "weights stay float32; --amp computes in --amp-dtype",
    "--save-images": "preview.png is written every epoch",
    "--tta": "validation takes one center crop",
    "--train-batch-sizes": "DALI's reader has one batch size; --train-img-sizes changes the size of the images",
    "--variable-batch-loss-scale": "all batches have one size",
    "--train-batches-per-epoch": "an epoch is the whole training set",
    "--train-steps-per-epoch": "an epoch is the whole training set",
    "--no-resume-opt": "use --initial-checkpoint with the weights of the checkpoint",
    "--start-epoch": "a checkpoint knows its epoch; --resume continues there",
    "--recovery-interval": "use --checkpoint-steps",
}
"""Flag, or with a trailing "-" or for "--naflex" the beginning of one, to the reason."""

_PREFIXES = ("--naflex", "--kd-")


def reason_to_refuse(flag: str) -> str | None:
    """Tell why a flag ("--name" or "--name=value") is not taken; None if it may be."""
    name = flag.partition("=")[0]
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return REFUSED[prefix]
    return REFUSED.get(name)


def refused_among(argv: list[str]) -> Iterator[tuple[str, str]]:
    """Find the flags of a command line that are refused, with their reasons."""
    for token in argv:
        reason = reason_to_refuse(token)
        if reason is not None:
            yield token.partition("=")[0], reason
