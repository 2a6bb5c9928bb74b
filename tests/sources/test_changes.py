"""A folder that changes while a run goes on."""

import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from dali_mix.data import scan_image_folder
from dali_mix.sources.changes import FolderWatch


def write_folder(root):
    """Two classes, one with a nested folder, one empty class; 7 files in all."""
    for path in ("a/0.jpg", "a/1.jpg", "a/2.JPEG", "a/deep/3.png", "b/0.jpg", "b/1.jpg", "b/2.jpg"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    (root / "empty").mkdir()
    (root / "a" / "notes.txt").write_text("no image")
    for path in root.rglob("*"):  # long ago, so that what a test does is another moment
        os.utime(path, (1e9, 1e9))
    return root


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "train")


@pytest.fixture
def watch(folder):
    return FolderWatch(scan_image_folder(folder, allow_empty=True))


def test_nothing_changes(watch, folder):
    assert watch.changed() is None
    (folder / "a" / "0.jpg").read_text()
    assert watch.changed() is None


def test_files_come_and_go_and_are_told_once(watch, folder):
    (folder / "a" / "0.jpg").unlink()
    (folder / "a" / "deep" / "3.png").unlink()
    for name in ("7.jpg", "8.JPEG", "notes.txt"):
        (folder / "b" / name).write_text("new")
    line = watch.changed()
    assert line.startswith(f"{folder} has changed since the run began: 2 files are gone, 2 files are new;")
    assert "\n" not in line
    assert watch.changed() is None
    (folder / "empty" / "0.jpg").write_text("new")
    assert "2 files are gone, 3 files are new" in watch.changed()
    assert watch.changed() is None


def test_a_new_class_and_a_lost_one(watch, folder):
    shutil.rmtree(folder / "b")
    (folder / "c").mkdir()
    assert "3 files are gone, 1 class folder is new" in watch.changed()
    assert watch.changed() is None


def test_a_file_is_replaced(watch, folder):
    other = folder / "b" / "other.tmp"
    other.write_text("another")
    other.replace(folder / "b" / "1.jpg")
    line = watch.changed()
    assert "1 folder has changed but not its file names" in line
    assert "gone" not in line
    assert watch.changed() is None
    (folder / "a" / "0.jpg").unlink()
    assert "may have been" not in watch.changed()


def test_what_is_no_image_of_the_set_does_not_matter(watch, folder):
    (folder / "README.jpg").write_text("beside the classes")
    assert watch.changed() is None


def test_links_and_folders_are_what_the_listing_takes_them_for(watch, folder):
    """A link loop is one file more, not a folder that cannot be read; a hidden folder is no class."""
    (folder / "b" / "loop.jpg").symlink_to("loop.jpg")
    (folder / ".cache").mkdir()
    os.mkfifo(folder / "b" / "pipe.jpg")
    line = watch.changed()
    assert "1 file is new" in line
    assert "cannot be read" not in line
    assert "class folder" not in line


def test_a_file_overwritten_in_place_is_not_noticed(watch, folder):
    (folder / "b" / "1.jpg").write_text("another")
    assert watch.changed() is None


def test_the_root_goes_and_comes_back(watch, folder, tmp_path):
    folder.rename(tmp_path / "elsewhere")
    assert watch.changed() == (
        f"{folder} cannot be read any more: No such file or directory; put it back before the run needs it"
    )
    assert watch.changed() is None
    (tmp_path / "elsewhere").rename(folder)
    assert watch.changed() is None
    (folder / "b" / "0.jpg").unlink()
    assert "1 file is gone" in watch.changed()


def test_another_root_takes_its_place(watch, folder, tmp_path):
    """Also one whose folders have the same times."""
    folder.rename(tmp_path / "elsewhere")
    shutil.copytree(tmp_path / "elsewhere", folder, ignore=lambda path, names: {"1.jpg"} & set(names))
    for path in (folder, *folder.rglob("*")):
        shutil.copystat(tmp_path / "elsewhere" / path.relative_to(folder), path)
    assert "2 files are gone" in watch.changed()


def test_a_class_becomes_a_file(watch, folder):
    shutil.rmtree(folder / "b")
    (folder / "b").write_text("no folder")
    assert "3 files are gone" in watch.changed()


@contextmanager
def as_user():
    """Not as root, for whom permissions count for nothing."""
    os.seteuid(os.getuid() or 65534)
    try:
        yield
    finally:
        os.seteuid(os.getuid())


@pytest.mark.parametrize(("lost", "count"), [("b", "1 folder"), ("", "5 folders")])
def test_permissions_are_lost(lost, count):
    """Of a class, or of the root, without which nothing below it can be reached."""
    with tempfile.TemporaryDirectory() as temporary:
        os.chmod(temporary, 0o755)
        folder = write_folder(Path(temporary) / "train")
        watch = FolderWatch(scan_image_folder(folder, allow_empty=True))
        (folder / lost).chmod(0)
        with as_user():
            line = watch.changed()
        (folder / lost).chmod(0o755)
        assert f"{count} cannot be read (Permission denied)" in line
        assert "gone" not in line
        assert watch.changed() is None


def test_a_check_of_a_thousand_folders_takes_moments(tmp_path):
    for index in range(1000):
        (tmp_path / f"{index:04}").mkdir()
        (tmp_path / f"{index:04}" / "0.jpg").touch()
    watch = FolderWatch(scan_image_folder(tmp_path))
    start = time.perf_counter()
    assert watch.changed() is None
    assert time.perf_counter() - start < 1
