"""Validation counts every image once, on any number of ranks and with any remainder."""

import json
from contextlib import closing, nullcontext

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.task import ClassificationEvaluator

from dali_mix import Batch
from dali_mix.data import scan_image_folder
from dali_mix.train.data import Data, Loaders
from dali_mix.train.distributed import World
from dali_mix.train.evaluate import evaluate
from dali_mix.train.settings.parse import parse_args
from tests.ranks import run_ranks
from tests.train.conftest import TINY
from train_imagenet import PIPELINES

IMAGES, CLASSES, BATCH = 1003, 10, 64
ALONE = World(0, 1, torch.device("cpu"))

# The real command line, which also notes what the model was given and what came out.
RECORDING = """
import json, os, sys
from dali_mix.train import main, run
from train_imagenet import PIPELINES

def recording(model, *args, original=run.evaluate):
    sizes = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    result = original(model, *args)
    with open(f"rank{os.environ.get('RANK', 0)}.json", "w") as file:
        json.dump({"sizes": sizes, "result": result}, file)
    return result

run.evaluate = recording
sys.exit(main(PIPELINES, sys.argv[1:]))
"""


def write_images(folder, count):
    """Small noise in colors, each image another, some classes larger than others."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, count).tolist()
    for index, label in enumerate(labels):
        path = folder / "val" / f"class{label}" / f"{index:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        noise.resize((40, 40), Image.Resampling.BILINEAR).save(path, quality=90)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("many"), IMAGES)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = timm.create_model(
        TINY[1], img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=CLASSES
    )
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(
        {name: value * 10 if name == "head.weight" else value for name, value in model.state_dict().items()}, path
    )
    return path


def validate(images, weights, folder, ranks, *flags):
    """Run ``--eval-only``; how it ended, and what each rank noted."""
    folder.mkdir()
    script = folder / "recording.py"
    script.write_text(RECORDING)
    argv = [*TINY, "--device", "cpu", "-j", 1, "--crop-pct", 1.0, "-b", BATCH, "--data-dir", images]
    argv += ["--eval-only", "--initial-checkpoint", weights, *flags]
    result = run_ranks(script, *argv, ranks=ranks, cwd=folder)
    return result, [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]


@pytest.mark.distributed
def test_every_image_counts_once_on_any_number_of_ranks(images, weights, tmp_path):
    tables, results = [], []
    for ranks in (1, 3):
        process, notes = validate(images, weights, tmp_path / str(ranks), ranks)
        assert process.returncode == 0, process.stderr
        sizes = [note["sizes"] for note in notes]
        assert len(sizes) == ranks
        assert all(0 < size <= BATCH for own in sizes for size in own), "the model got an empty batch"
        assert sum(map(sum, sizes)) == IMAGES
        assert all(note["result"] == notes[0]["result"] for note in notes), "ranks differ"
        tables.append(process.stdout)
        results.append(notes[0]["result"])
    assert all(table == tables[0] for table in tables)
    assert f"{IMAGES}" in tables[0]
    first = results[0]
    assert first["images"] == IMAGES
    assert 0 < first["top1"] < first["top5"] < 100
    for result in results[1:]:
        # Shares of 1003 are equal only if the counts are; the loss is a sum over other batches.
        assert [result[name] for name in ("images", "top1", "top5")] == [first["images"], first["top1"], first["top5"]]
        assert result["loss"] == pytest.approx(first["loss"], rel=1e-6)


def batch_of(labels):
    images = torch.randn(len(labels), 3, 4, 4)
    return Batch(images, torch.zeros(len(labels), CLASSES), torch.tensor(labels, dtype=torch.int64), "none")


class Linear(torch.nn.Module):
    """Logits from pixels; refuses empty batches as some models do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = torch.nn.Linear(48, CLASSES)

    def forward(self, images):
        assert len(images), "the model got an empty batch"
        return self.head(images.flatten(1))


def test_counts_are_those_of_timm():
    torch.manual_seed(1)
    batches = [batch_of(torch.randint(CLASSES, (size,)).tolist()) for size in (8, 8, 3)]
    model = Linear()
    oracle = ClassificationEvaluator()
    for batch in batches:
        oracle.update(model(batch.images), batch.labels)
    result = evaluate(model, batches, ALONE, nullcontext)
    assert result == pytest.approx(dict(oracle.compute(), images=19), rel=1e-6)


def test_bad_images_do_not_count():
    torch.manual_seed(1)
    whole = batch_of([3, -1, 5, 0, -7, 2])
    only_bad, empty = batch_of([-1, -1]), batch_of([])
    kept = whole.labels >= 0
    model = Linear()
    with torch.no_grad():
        whole.images[~kept] = torch.inf  # whatever stands in, its loss may be NaN
    expected = evaluate(model, [Batch(whole.images[kept], whole.targets[kept], whole.labels[kept], "none")],
                        ALONE, nullcontext)  # fmt: skip
    result = evaluate(model, [only_bad, whole, empty], ALONE, nullcontext)
    assert result["images"] == 4
    assert result == pytest.approx(expected, rel=1e-6)


def test_nothing_to_count_is_no_number():
    model = Linear().train()
    result = evaluate(model, [batch_of([-1, -1]), batch_of([])], ALONE, nullcontext)
    assert result["images"] == 0
    assert all(np.isnan(result[name]) for name in ("loss", "top1", "top5"))
    assert model.training


def test_a_batch_is_not_larger_than_the_images_of_a_rank(image_folder):
    """DALI would take memory for a million images, and decode the last one a million times."""
    folder = scan_image_folder(image_folder / "val")
    flags = ["--data-dir", str(image_folder), "--img-size", "16", "--device", "cpu", "-j", "1"]
    args = parse_args([*flags, "--validation-batch-size", "1000000"])
    config = {
        "input_size": (3, 16, 16),
        "crop_pct": 1.0,
        "crop_mode": "center",
        "interpolation": "bilinear",
        "mean": (0, 0, 0),
        "std": (1, 1, 1),
    }
    data = Data(None, folder, len(folder.classes), ())
    for size, expected in ((1, 30), (4, 8), (40, 1)):
        world = World(size - 1, size, torch.device("cpu"))
        loader = Loaders(args, data, config, world, PIPELINES).validation()
        with closing(loader):
            assert loader.batch_size == expected
    with Loaders(args, data, config, ALONE, PIPELINES).validation() as loader:
        assert [len(batch.labels) for batch in loader] == [30]
