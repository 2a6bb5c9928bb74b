"""The step method of examples/, which knows this package as a stranger does, in the trainer."""

import csv
import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image

from dali_mix import branches
from dali_mix.methods import Plain, base, known_parts, registered
from dali_mix.train import model as building
from dali_mix.train.distributed import World
from dali_mix.train.epoch_statistics import EpochStatistics
from dali_mix.train.output import Progress, Summary
from dali_mix.train.output.preview import Preview
from dali_mix.train.step import TrainStep
from tests.train.updates import CLASSES, Ready, batch_of, parsed, tiny_cnn

EXAMPLE = Path(__file__).parents[2] / "examples" / "step_method.py"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.setattr(base, "_registered", dict(base._registered))
    monkeypatch.setattr(branches, "_codes", dict(branches._codes))
    runpy.run_path(str(EXAMPLE))
    return registered()[-1]


def test_it_is_one_small_file():
    assert len(EXAMPLE.read_text().splitlines()) <= 40


def test_its_losses_are_what_it_says(example):
    torch.manual_seed(0)
    method = example(tiny_cnn().eval(), CLASSES, options=example.Options(alpha=2.0, weight=3.0))
    batch, lam = batch_of("ict"), 0.3
    result = method(batch, lam)
    images, targets = (lam * values + (1 - lam) * values.flip(0) for values in (batch.images, batch.targets))
    with torch.no_grad():
        logits, unmixed = method.model(images), method.model(batch.images).softmax(1)
    own = -(targets * logits.log_softmax(1)).sum(1).mean()
    taught = (logits.softmax(1) - lam * unmixed - (1 - lam) * unmixed.flip(0)).square().sum(1).mean()
    actual = [result[name].item() for name in ("classification", "interpolation", "loss")]
    assert actual == pytest.approx([own.item(), taught.item(), (own + 3 * taught).item()], rel=1e-5)


def test_two_epochs_leave_its_loss_and_its_picture(example, tmp_path):
    torch.manual_seed(0)
    model = tiny_cnn()
    step = TrainStep(Plain(model, CLASSES), [example(model, CLASSES)])
    trainer = building.build_trainer(parsed("--opt adamw"), World(0, 1, torch.device("cpu")), step, 4)[0]
    preview = Preview([f"class {index}" for index in range(CLASSES)], [0.5] * 3, [0.2] * 3, 0.0, step)
    trainer.watch = preview.watch
    summary = Summary(tmp_path / "summary.csv", parts=known_parts())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for epoch in range(2):
        preview.restart()
        statistics = EpochStatistics()
        batches = [batch_of(branch, seed) for seed, branch in enumerate(["ict", "mixup"] * 2)]
        trainer.train_epoch(Ready(batches), epoch, Progress(2, 24, shown=False), statistics)
        summary.add(statistics.row(trainer.world) | {"epoch": epoch})
        assert preview.save(tmp_path / f"preview-{epoch}.png")
    assert not any(map(torch.equal, before, model.parameters()))
    with summary._path.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(float(row["train_interpolation"]) > 0 and row["train_consistency"] == "" for row in rows)
    with Image.open(tmp_path / "preview-1.png") as one:
        both = one.size
    preview.restart()
    preview.watch(batch_of("mixup"), None)
    preview.save(tmp_path / "alone.png")
    with Image.open(tmp_path / "alone.png") as alone:
        assert both[0] == alone.size[0]
        assert both[1] == 2 * alone.size[1] - 8  # a row more, with the gap below it
