"""Every kind of hostile file through the real pipelines, twice."""

import re
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def
from PIL import Image

from dali_mix import MixLoader
from dali_mix.data import decode_images, scan_image_folder
from dali_mix.loading.recovery import TolerantLoader
from dali_mix.tools.scan_findings import read_header
from tests import hostile
from tests.hostile import train_build, val_build


@pytest.fixture
def root(tmp_path):
    return hostile.write_good(tmp_path / "images")


def test_every_hostile_file_in_training(root):
    paths = hostile.write_hostile(root / "class1")
    folder = scan_image_folder(root)
    hostile.spoil_listed(paths)
    listed = {name for name, path in paths.items() if str(path) in folder.files}
    assert listed == {name for name, kind in hostile.KINDS.items() if kind.outcome != hostile.NOT_LISTED}
    reported = []
    with TolerantLoader(train_build(), folder, on_bad_image=reported.append) as loader:
        epochs = [list(loader) for _ in range(2)]
        assert [len(epoch) for epoch in epochs] == [len(loader)] * 2 == [len(folder) // 6] * 2
        assert tuple(reported) == loader.bad_images
    bad = {str(path) for name, path in paths.items() if hostile.KINDS[name].outcome == hostile.REPLACED}
    lucky = {str(paths[name]) for name in hostile.ONLY_SOME_CROPS}
    found = [image.path for image in reported]
    assert len(found) == len(set(found))
    assert bad - lucky <= set(found) <= bad
    for image in reported:
        assert image.reason
        assert "\n" not in image.reason
    for batch in [batch for epoch in epochs for batch in epoch]:
        assert torch.isfinite(batch.images).all()
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(6))


def test_every_hostile_file_in_validation(root):
    paths = hostile.write_hostile(root / "class1")
    folder = scan_image_folder(root)
    hostile.spoil_listed(paths)
    bad = {str(path) for name, path in paths.items() if hostile.KINDS[name].outcome == hostile.REPLACED}
    expected = sorted(-1 if path in bad else label for path, label in zip(folder.files, folder.labels, strict=True))
    with TolerantLoader(val_build(), folder, "partial", stand_in="left_out") as loader:
        for epoch in [list(loader) for _ in range(2)]:
            labels = torch.cat([batch.labels for batch in epoch])
            targets = torch.cat([batch.targets for batch in epoch])
            assert sorted(labels.tolist()) == expected
            assert targets[labels < 0].abs().sum() == 0
            torch.testing.assert_close(targets[labels >= 0].sum(1), torch.ones(len(expected) - len(bad)))
        assert {image.path for image in loader.bad_images} == bad


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return hostile.write_hostile(tmp_path_factory.mktemp("kinds"))


@pytest.mark.parametrize("kind", [name for name, kind in hostile.KINDS.items() if kind.outcome == hostile.USED])
def test_what_is_used_decodes_as_with_pil_or_is_as_far_off_as_the_table_says(written, kind):
    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def whole():
        return decode_images(fn.readers.file(files=[str(written[kind])], labels=[0])[0], decoder="cpu")

    (images,) = whole().run()
    theirs = np.asarray(Image.open(written[kind]).convert("RGB"))
    off = hostile.KINDS[kind].levels_off
    if not off:
        np.testing.assert_array_equal(images.at(0), theirs)
        return
    assert abs(np.abs(images.at(0).astype(int) - theirs).mean() - off) < 0.6
    assert f"{off} levels off" in hostile.KINDS[kind].what
    header = read_header(str(written[kind]))
    assert header is not None
    assert header.difference


def test_what_decodes_as_with_pil_is_not_told_to_differ(written):
    same = [name for name, kind in hostile.KINDS.items() if kind.outcome == hostile.USED and not kind.levels_off]
    headers = {name: read_header(str(written[name])) for name in same}
    assert {name: header.difference for name, header in headers.items() if header and header.difference} == {}


def test_the_page_on_hostile_images_has_every_kind():
    page = (Path(__file__).parents[2] / "docs" / "hostile_images.md").read_text()
    rows = re.findall(r"^\| (.+?) \| (used|replaced|not listed) \|", page, re.MULTILINE)
    unreadable = ("no permission to read", hostile.REPLACED)  # which root can read
    assert sorted({*rows, unreadable}) == sorted(
        {(kind.what, kind.outcome) for kind in hostile.KINDS.values()} | {unreadable}
    )


def test_very_long_images_stay_small_in_validation(tmp_path):
    """Resized like the others, 20000 x 1 pixels would take four gigabytes."""
    (tmp_path / "a").mkdir()
    hostile.photo(size=(20000, 1)).save(tmp_path / "a" / "wide.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with MixLoader(val_build(batch_size=1, img_size=224)(scan_image_folder(tmp_path)), "partial") as loader:
        assert next(loader).images.shape == (1, 3, 224, 224)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB
