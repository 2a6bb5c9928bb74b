"""A run that is continued ends as if it had never been stopped, wherever it was stopped."""

import pytest

from dali_mix.train.checkpoint.store import Position
from tests.train.recovery.runs import RICH, assert_same_result, cut_off

# Of 3 epochs of 7 batches; mixing ends with the second.
POSITIONS = [(0, 0), (0, 1), (0, 7), (1, 0), (1, 4), (1, 7), (2, 0), (2, 3), (2, 7), (3, 0)]


@pytest.mark.parametrize("position", [Position(*numbers) for numbers in POSITIONS], ids=lambda p: f"{p[0]}-{p[1]}")
def test_continuing_gives_the_same_bits(train, whole, tmp_path, position):
    cut_off(whole, tmp_path / "run", position)
    code, _, err = train(*RICH, "--experiment", "run", "--auto-resume")
    assert code == 0, err
    assert f"checkpoint-{position.epoch}-{position.batch} exactly" in err
    assert_same_result(tmp_path / "run", whole)
