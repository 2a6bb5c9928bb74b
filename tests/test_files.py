"""Files that are whole or absent, and no way to the target of a planted link."""

import os
import stat

import pytest

from dali_mix.files import append_line, remove_leftovers, replace_file, replace_text, write_output


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path, victim):
    path = tmp_path / "args.yaml"
    path.symlink_to(victim)
    (tmp_path / "args.yaml.tmp").symlink_to(victim)  # the fixed name of earlier versions
    replace_text(path, "new")
    assert victim.read_text() == "precious"
    assert not path.is_symlink()
    assert path.read_text() == "new"


def test_a_new_file_has_the_mode_that_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        replace_text(tmp_path / "file", "text")
        append_line(tmp_path / "list", "line")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "list")] == [0o640, 0o640]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("old")

    def write(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        replace_file(tmp_path / "file", write)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "old"}


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    kept = [".lock", "x.tmp", ".mine.tmp", ".summary.csv.0123456789abcdef.tmp.old"]
    for name in [*kept, ".summary.csv.0123456789abcdef.tmp"]:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(kept)


def test_a_name_as_long_as_names_may_be(tmp_path):
    replace_text(tmp_path / ("n" * 255), "text")
    assert os.listdir(tmp_path) == ["n" * 255]


def test_nothing_is_appended_through_a_link_or_to_a_fifo(tmp_path, victim):
    (tmp_path / "link").symlink_to(victim)
    with pytest.raises(OSError, match="link is a link, remove it"):
        append_line(tmp_path / "link", "line")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match=r"No such device|no regular file"):
        append_line(tmp_path / "fifo", "line")
    assert victim.read_text() == "precious"


def test_what_a_user_names_may_be_a_link_or_a_device(tmp_path, victim):
    (tmp_path / "link").symlink_to(victim)
    write_output(tmp_path / "link", "report")
    assert victim.read_text() == "report"
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "device").symlink_to(os.devnull)
    write_output(tmp_path / "device", "report")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
