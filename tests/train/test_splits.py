"""What a run's folders hold, what is left out of them, and what the log says of it."""

import logging
import os

import pytest
import torch
from timm.data import create_dataset

from dali_mix import ConfigError
from dali_mix.data import scan_image_folder
from dali_mix.sources.class_order import differs_from_timm
from dali_mix.train.data import open_data
from dali_mix.train.distributed import World
from dali_mix.train.settings import parse_args
from tests.sources.test_folder import make


@pytest.fixture
def opened(tmp_path, caplog):
    """Open the data below the temporary folder: the images, and the lines of the log."""
    caplog.set_level(logging.INFO, "dali_mix")

    def run(*flags):
        caplog.clear()
        args = parse_args(["--data-dir", str(tmp_path), "--model", "resnet18", *map(str, flags)])
        data = open_data(args, World(0, 1, torch.device("cpu")))
        return data, [record.getMessage().replace(str(tmp_path), "DIR") for record in caplog.records]

    return run


@pytest.fixture
def data(tmp_path):
    return make(tmp_path, "train/a/1.jpg", "train/a/2.jpg", "train/b/3.jpg", "val/a/4.jpg", "val/b/5.jpg")


def test_what_there_is_and_what_is_left_out(opened, data):
    make(data, "train/.ipynb_checkpoints/x.jpg", "train/a/x.txt", "train/a/._1.jpg", "val/stray.jpg", "valid/a/6.jpg")
    (data / "val" / "b" / "5.jpg").unlink()
    assert opened()[1] == [
        "DIR/val is used, and not valid beside it",
        "training: 4 images of 2 classes in DIR/train (1 of them with a dot before the name); left out: 1 hidden "
        "folder (.ipynb_checkpoints), 1 file with another extension (a/x.txt)",
        "validation: 1 image of 2 classes in DIR/val; left out: 1 file beside the class folders (stray.jpg)",
        "validation: 1 of 2 classes without an image, the first is b",
    ]


def test_a_class_map_selects_in_both_folders(opened, data):
    make(data, "train/c/6.jpg", "val/c/7.jpg")
    # As Windows writes it.
    (data / "map.txt").write_bytes(b"\xef\xbb\xbfc\r\na\r\nd\r\n")
    images, lines = opened("--class-map", data / "map.txt")
    assert images.val.classes == images.train.classes == ("c", "a", "d")
    assert (images.train.labels.tolist(), images.val.labels.tolist()) == ([1, 1, 0], [1, 0])
    named = "left out: 1 class folder with 1 image that --class-map does not name (the first is b)"
    assert lines == [
        f"training: 3 images of 3 classes in DIR/train; {named}",
        f"validation: 2 images of 3 classes in DIR/val; {named}",
        "training: 1 of 3 classes without an image, the first is d",
        "validation: 1 of 3 classes without an image, the first is d",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n", "names no class"),
        ("a\nb\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (b"a\nb\ncaf\xe9\n", "has a name that is no line of UTF-8 text"),
        (b"x\ny\n", "holds no image: none of the named classes has one"),
    ],
)
def test_class_maps_that_cannot_be_used(opened, data, content, message):
    (data / "map.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        opened("--class-map", data / "map.txt")


def test_the_lines_of_an_exclude_list_are_counted(opened, data):
    make(data, os.fsdecode(b"train/a/caf\xe9.jpg"))
    (data / "bad.txt").write_bytes(b"train/a/1.jpg\ntrain/a/caf\xe9.jpg\nnowhere.jpg\nval/b/5.jpg\n")
    images, lines = opened("--exclude-list", data / "bad.txt")
    assert [len(images.train), len(images.val)] == [2, 1]
    assert lines[-3:] == [
        "3 of 4 lines of --exclude-list match (training 2 images, validation 1 image)",
        "--exclude-list: lines that match no image: 1, the first is nowhere.jpg",
        "validation: 1 of 2 classes without an image, the first is b",
    ]
    (data / "bad.txt").write_text("a/1.jpg\nnowhere.jpg\n")
    with pytest.raises(ConfigError, match=r"no line of 2 names an image of .*, the first is 'a/1.jpg'; paths must be"):
        opened("--exclude-list", data / "bad.txt")
    (data / "bad.txt").write_text("")  # of a scan that has found nothing
    with pytest.raises(ConfigError, match=r"the names of 1 of 4 files in .*/train are not UTF-8"):
        opened("--exclude-list", data / "bad.txt")


def test_a_data_folder_that_may_not_be_entered(opened, data, monkeypatch):
    original = os.stat

    def stat(path, *args, **kwargs):
        if str(path).endswith("/train"):
            raise PermissionError(13, "Permission denied")
        return original(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(ConfigError, match="train cannot be looked at: Permission denied"):
        opened()


@pytest.mark.parametrize(
    ("paths", "first"),
    [
        (["1/a.jpg", "2/b.jpg", "10/c.jpg"], "label 1 is '10' here and '2' there"),
        (["ant/a.jpg", "Bee/b.jpg"], "label 0 is 'Bee' here and 'ant' there"),
        (["a/x/a.jpg", "a/y/b.jpg"], "label 0 is 'a' here and 'x' there"),
        (["n02/a.jpg", "n10/b.jpg"], None),
        (["\u00b2/a.jpg"], None),
    ],
)
def test_class_numbers_that_are_not_timms_are_told(opened, tmp_path, paths, first):
    make(tmp_path, *(f"{split}/{path}" for split in ("train", "val") for path in paths))
    lines = [line for line in opened()[1] if "timm" in line]
    assert [line.split(":")[1].split(",")[0].strip() for line in lines] == ([first] if first else [])
    if paths[0][0] != "\u00b2":  # which timm fails with
        theirs = create_dataset("", root=str(tmp_path), split="train").reader.class_to_idx
        ours = scan_image_folder(tmp_path / "train")
        assert (differs_from_timm(ours) is None) == (list(theirs) == list(ours.classes))


def test_splits_may_be_lists(opened, data):
    (data / "train.csv").write_text("path,class\ntrain/a/1.jpg,a\ntrain/b/3.jpg,b\ntrain/a/2.jpg,a\n")
    (data / "val.csv").write_text("val/a/4.jpg,b\nval/b/5.jpg,b\n")
    (data / "out.txt").write_text("train/b/../b/3.jpg\nval/a/4.jpg\n")
    images, lines = opened("--train-split", "list:train.csv", "--val-split", "list:val.csv")
    assert (images.train.labels.tolist(), images.val.labels.tolist()) == ([0, 1, 0], [1, 1])
    assert lines == [
        "training: 3 images of 2 classes in DIR/train.csv",
        "validation: 2 images of 2 classes in DIR/val.csv",
        "validation: 1 of 2 classes without an image, the first is a",
    ]
    images, lines = opened("--train-split", "list:train.csv", "--exclude-list", data / "out.txt")
    assert (len(images.train), len(images.val)) == (2, 1)
    assert "2 of 2 lines of --exclude-list match (training 1 image, validation 1 image)" in lines
    assert "training: 1 of 2 classes without an image, the first is b" in lines
    with pytest.raises(ConfigError, match=r"^DIR/none\.csv cannot be read: No such file".replace("DIR", str(data))):
        opened("--train-split", "list:none.csv")
    with pytest.raises(ConfigError, match="unknown scheme 'wds'; there are folder"):
        opened("--train-split", "wds:train.tar")
