"""What a listing must neither miss nor list twice."""

import errno
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from dali_mix import ConfigError
from dali_mix.data import scan_image_folder
from dali_mix.sources import listing
from dali_mix.text import show
from tests.sources.test_changes import as_user
from tests.sources.test_folder import make


def names(folder):
    return [os.path.relpath(path, folder.root) for path in folder.files]


def test_hidden_folders_are_no_classes_and_are_not_entered(tmp_path):
    make(tmp_path, "a/1.jpg", "a/.trash/2.jpg", "b/3.jpg", ".ipynb_checkpoints/4.jpg", "b/._5.jpg")
    folder = scan_image_folder(tmp_path)
    assert folder.classes == ("a", "b")
    assert names(folder) == ["a/1.jpg", "b/._5.jpg", "b/3.jpg"]
    assert folder.left_out.told(str(tmp_path)) == ["2 hidden folders (the first is .ipynb_checkpoints)"]


def test_everything_that_is_no_image_is_told(tmp_path):
    make(tmp_path, "a/1.jpg", "a/x.jfif", "a/.1.jpg.swp", "a/deep/y.JFIF", "stray.jpg")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "part2").symlink_to("/nowhere/part2")
    (tmp_path / "a" / "2.jpg").symlink_to("/nowhere/2.jpg")
    (tmp_path / "lost").symlink_to("/nowhere/class")
    folder = scan_image_folder(tmp_path)
    assert names(folder) == ["a/1.jpg", "a/2.jpg"]
    assert folder.left_out.told(str(tmp_path)) == [
        "3 files with other extensions (.jfif 2, .swp 1; the first is a/.1.jpg.swp)",
        "1 FIFO, socket or device (a/pipe.png)",
        "1 file beside the class folders (stray.jpg)",
        "2 links that lead nowhere (the first is a/part2)",
    ]
    with pytest.raises(ConfigError, match="lost is a class whose link leads nowhere"):
        scan_image_folder(tmp_path, ["a", "lost"])


def test_a_class_without_an_image(tmp_path):
    make(tmp_path, "a/1.jpg", "b/1.jfif", "b/2.jfif", "c/notes.txt")
    with pytest.raises(ConfigError, match=r"2 class folder\(s\) of .* hold no image, the first is 'b', but 2 file\(s\) "
                                          r"with other extensions \(.jfif 2\)"):  # fmt: skip
        scan_image_folder(tmp_path)
    assert scan_image_folder(tmp_path, ["a", "b", "c"]).empty_classes() == ["b", "c"]
    assert scan_image_folder(tmp_path, allow_empty=True).empty_classes() == ["b", "c"]


def test_a_class_map_selects(tmp_path):
    make(tmp_path, "a/1.jpg", "b/2.jpg", "b/3.jpg", "c/4.jpg")
    folder = scan_image_folder(tmp_path, ["c", "a"], select=True)
    assert (names(folder), folder.labels.tolist()) == (["a/1.jpg", "c/4.jpg"], [1, 0])
    assert folder.left_out.unnamed == {"b": 2}
    with pytest.raises(ConfigError, match="that the training set lacks, the first is 'b'"):
        scan_image_folder(tmp_path, ["c", "a"])


def test_each_real_folder_is_listed_once_per_class(tmp_path):
    """Eight that link to each other would be listed 109,600 times."""
    for place in range(8):
        make(tmp_path, f"a/{place}/{place}.jpg")
        for other in range(8):
            if other != place:
                (tmp_path / f"a/{place}/to{other}").symlink_to(f"../{other}")
    make(tmp_path / "elsewhere", "b/9.jpg", "b/deep/10.jpg")
    root = make(tmp_path, "c/11.jpg").joinpath("c")
    (root / "z").symlink_to(tmp_path / "elsewhere/b")
    (root / "y").symlink_to(tmp_path / "elsewhere/b")
    (root / "up").symlink_to(tmp_path.parent)
    folder = scan_image_folder(tmp_path)
    assert [name for name in names(folder) if name.startswith("a/")] == [f"a/{place}/{place}.jpg" for place in range(8)]
    # Under the first of the links, whatever order the file system gives them in.
    assert [name for name in names(folder) if name.startswith("c/")] == ["c/11.jpg", "c/y/9.jpg", "c/y/deep/10.jpg"]
    assert len(folder.left_out.repeated) == 58


def test_a_class_that_links_to_the_whole_set_is_none(tmp_path):
    before = scan_image_folder(make(tmp_path, "a/1.jpg", "b/2.jpg"))
    (tmp_path / "all").symlink_to(".")
    folder = scan_image_folder(tmp_path)
    assert folder == before
    assert folder.left_out.repeated == [str(tmp_path / "all")]


def test_folders_nested_deeper_than_python_calls(tmp_path):
    make(tmp_path, "a/1.jpg")
    inner = os.open(tmp_path / "a", os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=inner)
        outer, inner = inner, os.open("d", os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(os.open("2.jpg", os.O_CREAT, dir_fd=inner))
    os.close(inner)
    assert len(scan_image_folder(tmp_path)) == 2
    subprocess.run(["rm", "-r", tmp_path / "a"], check=True)  # shutil.rmtree calls itself for each


@pytest.fixture
def failing(monkeypatch):
    """Let a call of the file system fail a number of times, with an error number."""
    monkeypatch.setattr(listing, "_PAUSES_S", (0.0, 0.0, 0.0))

    def fail(name, part, number, times):
        original, left = getattr(os, name), [times]

        def call(path, *args, **kwargs):
            if part in os.fspath(path) and left[0]:
                left[0] -= 1
                raise OSError(number, os.strerror(number), path)
            return original(path, *args, **kwargs)

        monkeypatch.setattr(os, name, call)

    return fail


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_passing_failure_of_storage_is_waited_for(tmp_path, failing, number):
    make(tmp_path, "a/1.jpg", "b/2.jpg")
    failing("scandir", "/b", number, times=3)
    assert names(scan_image_folder(tmp_path)) == ["a/1.jpg", "b/2.jpg"]


def test_what_cannot_be_listed_is_an_error_and_no_absence(tmp_path, failing):
    make(tmp_path / "set", "a/1.jpg", "b/deep/2.jpg", "b/3.jpg")
    make(tmp_path, "away/4.jpg")
    failing("scandir", "/b/deep", errno.EIO, times=-1)
    with pytest.raises(ConfigError, match="set/b/deep cannot be listed: Input/output error"):
        scan_image_folder(tmp_path / "set")
    failing("scandir", "/b/deep", errno.ENOENT, times=-1)  # gone since its parent was listed
    with pytest.raises(ConfigError, match="set/b/deep cannot be listed"):
        scan_image_folder(tmp_path / "set")
    (tmp_path / "set" / "c").symlink_to(tmp_path / "away")
    failing("stat", "/set/c", errno.ETIMEDOUT, times=-1)
    with pytest.raises(ConfigError, match="set/c cannot be looked at: Connection timed out"):
        scan_image_folder(tmp_path / "set")


def test_folders_without_permission_are_an_error():
    with tempfile.TemporaryDirectory() as temporary:
        os.chmod(temporary, 0o755)
        root = make(Path(temporary) / "set", "a/1.jpg", "b/2.jpg")
        make(Path(temporary), "secret/c/3.jpg")
        (root / "b").chmod(0)
        with as_user(), pytest.raises(ConfigError, match="set/b cannot be listed: Permission denied"):
            scan_image_folder(root)
        (root / "b").chmod(0o755)
        (root / "c").symlink_to(Path(temporary) / "secret/c")
        (Path(temporary) / "secret").chmod(0)
        with as_user(), pytest.raises(ConfigError, match="set/c cannot be looked at: Permission denied"):
            scan_image_folder(root)
        (Path(temporary) / "secret").chmod(0o755)


@pytest.mark.parametrize("name", ["new\nline", "end\r", "para\u2029graph", " blank", "caf\udce9"])
def test_a_class_whose_name_no_list_can_hold_is_refused(tmp_path, name):
    make(tmp_path, "a/1.jpg", f"{name}/2.jpg")
    with pytest.raises(ConfigError, match="has a name that is no line of UTF-8 text") as refused:
        scan_image_folder(tmp_path)
    assert f"the class folder '{show(name)}' in" in str(refused.value)
    assert scan_image_folder(tmp_path, ["a"], select=True).classes == ("a",)


def test_a_name_that_only_looks_like_one_of_the_training_set(tmp_path):
    make(tmp_path, "cafe\u0301/1.jpg")
    with pytest.raises(ConfigError, match=r"'cafe\\u0301' looks like 'caf\\xe9' but is other characters"):
        scan_image_folder(tmp_path, ["caf\u00e9"])


def test_the_digest_of_names_is_what_saved_runs_have(tmp_path):
    folder = scan_image_folder(make(tmp_path, "a/1.jpg", "b\u00e9/deep/2.png"))
    assert folder.digest()[:16] == "61c6c118b27dd173"
    other = scan_image_folder(make(tmp_path, "a/caf\udce9.jpg"))
    assert other.digest() != folder.digest()
    with pytest.raises(ConfigError, match=r"the names of 1 of 3 files in .* are not UTF-8, and DALI reads no others"):
        other.require_readable_names()
