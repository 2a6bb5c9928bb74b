"""Many bad files at once: how often the pipeline is built, and that nothing else depends on it."""

import random
from pathlib import Path

import numpy as np
import pytest

from dali_mix import DataError
from dali_mix.data import scan_image_folder
from dali_mix.loading.recovery import TolerantLoader
from dali_mix.loading.replacements import LookAhead, Replacements
from tests.hostile import train_build
from tests.loading.test_recovery import assert_equal_batches

CLASSES, PER_CLASS, BATCH = 4, 100, 10


@pytest.fixture
def root(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (CLASSES, PER_CLASS, 192)).astype(np.uint8)
    for label in range(CLASSES):
        (tmp_path / str(label)).mkdir()
        for index in range(PER_CLASS):
            path = tmp_path / str(label) / f"{index:03}.ppm"
            path.write_bytes(b"P6 8 8 255\n" + pixels[label, index].tobytes())
    return tmp_path


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_scattered_bad_files_cost_few_rebuilds_and_resume_exactly(root, harm):
    """A hundred in forty batches, so that hardly a batch is without one: a rebuild each would be 38."""
    folder = scan_image_folder(root)
    bad = random.Random(1).sample(folder.files, 100)
    for path in bad:
        Path(path).write_bytes(b"P6 8 8 255\n") if harm == "damaged" else Path(path).unlink()
    builds, states, batches = [], [], []

    def build(folder):
        builds.append(folder)
        return train_build(batch_size=BATCH)(folder)

    with TolerantLoader(build, folder) as loader:
        for _ in range(len(loader)):
            states.append(loader.state_dict())
            batches.append(next(loader))
        assert {image.path for image in loader.bad_images} == set(bad)
    assert len(builds) - 1 <= 7
    with TolerantLoader(build, folder) as loader:
        loader.load_state_dict(states[4])
        assert_equal_batches([next(loader) for _ in range(20)], batches[4:24])
        assert loader.state_dict() == states[24]


def test_a_run_stops_when_enough_are_found_not_when_all_are(root):
    """A class that is bad is told as a whole, while a replacement is looked for."""
    for path in root.glob("*/*.ppm"):
        path.write_bytes(b"P6 8 8 255\n")
    reported = []

    def enough(image):
        reported.append(image)
        if len(reported) == 60:
            raise DataError("enough")

    with (
        TolerantLoader(train_build(batch_size=BATCH), scan_image_folder(root), on_bad_image=enough) as loader,
        pytest.raises(DataError, match="enough"),
    ):
        next(loader)
    assert len(reported) == 60


def test_the_stand_in_is_the_next_good_file_whoever_asks_and_when(root, monkeypatch):
    """A bad candidate is passed over and stays to be found when it is read."""
    folder = scan_image_folder(root)
    bad = {10, 11, 12, 13, 14, 15, 16, 17, 18, 99, 0, *range(300, 400)}
    monkeypatch.setattr(
        Replacements, "_probe", lambda self, files: [(file, "x" if file in bad else None) for file in files]
    )
    replacements = Replacements(folder, lambda image: None)
    assert replacements.judge([9, 10, 14])
    replacements.assign()
    assert replacements.state() == [[10, 19, "x"], [14, 19, "x"]]
    assert replacements.judge([99, 310])
    replacements.assign()
    assert replacements.replaced[99] == 1
    assert set(replacements.reasons) == {10, 14, 99, *range(300, 400)}
    # None is left in the class: the next one of any, from the start again after the last.
    assert {replacements.replaced[file] for file in range(300, 400)} == {1}


def test_failures_close_together_look_further_and_those_far_apart_do_not():
    plan, ahead = LookAhead(), []
    for failed in (0, 2, 6, 14, 30, 62):  # each right after what was judged
        plan = plan.after(failed, 1000)
        ahead.append(plan.batches)
        assert plan.end == failed + 1 + plan.batches
    assert ahead == [1, 3, 7, 15, 31, 63]
    assert plan.after(500, 1000).batches == 31
    assert plan.after(126, 130) == (127, 130)  # nothing of the next epoch
    alone = LookAhead()
    for failed in (100, 300, 500, 700, 20, 900):
        alone = alone.after(failed, 1000)
        assert alone.batches == 0
