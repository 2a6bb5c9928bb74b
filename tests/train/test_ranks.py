"""The same images make the same run, on one rank or two, in one batch or two."""

import csv

import pytest
import torch
from safetensors.torch import load_file

from tests.ranks import run_ranks
from tests.train.conftest import FAST
from tests.train.test_run import ENTRY

IMAGES = 32


def losses_and_weights(folder):
    with (folder / "summary.csv").open() as file:
        losses = [[float(row["train_loss"]), float(row["eval_loss"])] for row in csv.DictReader(file)]
    return torch.tensor(losses), load_file(folder / "model.safetensors")


@pytest.mark.distributed
def test_one_rank_two_ranks_and_two_micro_batches_agree(train, tmp_path, image_folder):
    """An update sees all images, so its gradient is the same sum, whoever holds which of them.

    Mixed images differ, as they must: each rank draws its own, and pairs lie within a rank.  For those, see
    tests/methods/smmix/test_distributed.py, which compares with one rank that is given the same pairs.
    """
    surplus = sorted(image_folder.glob("train/*/*.jpg"))[IMAGES:]
    (tmp_path / "surplus.txt").write_text("\n".join(map(str, surplus)))
    (tmp_path / "classes.txt").write_text("\n".join(sorted(path.name for path in (image_folder / "train").iterdir())))
    common = ["--exclude-list", tmp_path / "surplus.txt", "--no-aug", "--class-map", tmp_path / "classes.txt"]
    common += ["--epochs", 3]
    ways = {"whole": (1, [32]), "ranks": (2, [16]), "micro": (1, [16, "--grad-accum-steps", 2])}
    results = {}
    for name, (ranks, batch) in ways.items():
        flags = [*common, "--experiment", name, "-b", *batch]
        if ranks == 1:
            code, _, err = train(*flags)
        else:
            places = ["--data-dir", image_folder, "--output", tmp_path]
            result = run_ranks(ENTRY, *FAST, *places, *flags, ranks=ranks, cwd=tmp_path)
            code, err = result.returncode, result.stderr
        assert code == 0, err
        results[name] = losses_and_weights(tmp_path / name)
    losses, weights = results.pop("whole")
    assert losses[0, 0] != losses[2, 0]
    for other_losses, other_weights in results.values():
        torch.testing.assert_close(other_losses, losses, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other_weights, weights, rtol=1e-3, atol=2e-5)
