"""Runs that are cut off, and what they must come to."""

import csv
import shutil

import safetensors.torch
import torch

from dali_mix.train.checkpoint.state import read_run
from dali_mix.train.checkpoint.store import CheckpointStore, Position

# Everything that draws random numbers or keeps a state of its own.
RICH = (
    "--smmix --mixup 0.8 --cutmix 1 --mixup-off-epoch 2 --epochs 3 --drop 0.1 --drop-path 0.1 --model-ema "
    "--model-ema-warmup --aa rand-m5-inc1 --reprob 0.3 --clip-grad 1 --opt lookahead_adamw --checkpoint-steps 1 "
    "--checkpoint-hist 100"
).split()
TIMES = ("img_per_s", "data_wait", "seconds")


def rows_of(folder):
    with (folder / "summary.csv").open() as file:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def assert_same_result(folder, expected, average=True):
    assert rows_of(folder) == rows_of(expected)
    names = ["model.safetensors", "model_best.safetensors", *(["model_ema.safetensors"] if average else [])]
    for name in names:
        own, other = (safetensors.torch.load_file(path / name) for path in (folder, expected))
        assert own.keys() == other.keys()
        differing = [key for key in own if not torch.equal(own[key], other[key])]
        assert differing == []


def cut_off(folder, copy, position):
    """What a run's folder holds when it is killed right after a checkpoint."""
    shutil.copytree(folder, copy)
    for later, path in CheckpointStore(copy / "checkpoints").all().items():
        if later > position:
            shutil.rmtree(path)
    for path in copy.glob("model*.safetensors"):
        if path.name != "model_best.safetensors" or not position.epoch:
            path.unlink()


def change_run(folder, change):
    """Another ``run.pt`` in a checkpoint, with right sums."""
    facts = read_run(folder)
    change(facts)
    torch.save(facts, folder / "run.pt")
    contents = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".json"}
    shutil.rmtree(folder)
    CheckpointStore(folder.parent, keep=1000).save(
        Position(*facts["position"]), {name: (lambda data=data: data) for name, data in contents.items()}
    )
