"""Checkpoints on disk survive whatever happens to the process, the disk or the files."""

import hashlib
import json
import os
import resource
import signal

import pytest

from dali_mix.train.checkpoint.store import CheckpointError, CheckpointStore, Position
from dali_mix.train.checksums import verify

CONTENT = {"model.safetensors": b"weights" * 1000, "state.pt": b"state", "rank-0.pt": b"rank"}


def save(store, epoch, batch, content=CONTENT):
    return store.save(Position(epoch, batch), {name: (lambda data=data: data) for name, data in content.items()})


def complaints_of(store):
    said = []
    return store.newest_good(verify, said.append), said


def test_a_checkpoint_holds_what_was_saved(tmp_path):
    path = save(CheckpointStore(tmp_path / "checkpoints"), 2, 30)
    assert {file.name: file.read_bytes() for file in path.iterdir() if file.suffix != ".json"} == CONTENT
    assert verify(path) == list(CONTENT)
    assert (tmp_path / "checkpoints" / "latest").read_text() == "checkpoint-2-30\n"


def test_the_newest_stay_by_number_not_by_name(tmp_path):
    store = CheckpointStore(tmp_path, keep=3)
    for epoch, batch in ((0, 0), (0, 9), (0, 10), (9, 0), (10, 0)):
        save(store, epoch, batch)
    assert list(store.all()) == [(10, 0), (9, 0), (0, 10)]
    assert complaints_of(store)[0].name == "checkpoint-10-0"
    assert (tmp_path / "latest").read_text() == "checkpoint-10-0\n"


# What a save asks of the operating system, in order; a process may be killed before or after each.
CALLS = ("mkdir", "open", "fsync", "rename", "replace", "unlink", "rmdir")


def calls_until_killed(folder, number):
    """Save in a child that kills itself before its call ``number``; False if the save made fewer."""
    child = os.fork()
    if child == 0:
        counted = 0

        def counting(call):
            def wrapped(*args, **kwargs):
                nonlocal counted
                if counted == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                counted += 1
                return call(*args, **kwargs)

            return wrapped

        for name in CALLS:
            setattr(os, name, counting(getattr(os, name)))
        try:
            save(CheckpointStore(folder, keep=1), 1, 0, {name: data + b"new" for name, data in CONTENT.items()})
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_killed_at_any_call_of_a_save_there_is_a_whole_checkpoint(tmp_path):
    """The old one or the new one, and never fewer than one."""
    found = []
    for number in range(200):
        folder = tmp_path / str(number)
        store = CheckpointStore(folder, keep=1)
        save(store, 0, 5)
        killed = calls_until_killed(folder, number)
        good, said = complaints_of(store)
        assert good is not None, number
        assert said == [], number  # a half-written or half-removed one does not look like a checkpoint
        assert verify(folder / (folder / "latest").read_text().strip())
        found.append(good.name)
        save(store, 2, 0)  # what the killed process left is no obstacle, and goes
        assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-2-0", "latest"]
        if not killed:
            break
    assert not killed
    assert len(found) > 15
    assert found == sorted(found)  # from some call on it is the new one
    assert {"checkpoint-0-5", "checkpoint-1-0"} == set(found)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 0, 0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(store, 1, 0, {"model.safetensors": b"x" * 10_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-0-0", "latest"]
    assert complaints_of(store)[0].name == "checkpoint-0-0"


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def remove(file):
    file.unlink()


@pytest.mark.parametrize("name", [*CONTENT, "checksums.json"])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, remove])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, name, damage):
    store = CheckpointStore(tmp_path, keep=5)
    good, bad = save(store, 0, 5), save(store, 1, 0)
    damage(bad / name)
    found, (line,) = complaints_of(store)
    assert found == good
    assert line.startswith(f"{bad} is damaged: ")
    assert name in line
    store.set_aside(found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-0-5", "damaged-checkpoint-1-0", "latest"]
    save(store, 1, 0)
    assert complaints_of(store) == (bad, [])


@pytest.mark.parametrize("names", [["../outside.pt"], ["/etc/passwd"], ["a/b.pt"], "text", [7]])
def test_a_list_of_files_never_leads_out_of_the_folder(tmp_path, names):
    path = save(CheckpointStore(tmp_path / "checkpoints"), 0, 0)
    (tmp_path / "outside.pt").write_bytes(b"x")
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    files = {str(name): entry for name in names} if isinstance(names, list) else names
    (path / "checksums.json").write_text(json.dumps({"format": 1, "files": files}))
    with pytest.raises(CheckpointError, match="does not list a checkpoint's files"):
        verify(path)


def test_a_list_of_files_that_nests_without_end_is_damaged(tmp_path):
    path = save(CheckpointStore(tmp_path / "checkpoints"), 0, 0)
    (path / "checksums.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"is damaged: checksums\.json is not JSON"):
        verify(path)


def test_nothing_to_find(tmp_path):
    assert complaints_of(CheckpointStore(tmp_path / "absent")) == (None, [])
    (tmp_path / "checkpoint-1-0.tmp").mkdir()
    (tmp_path / "checkpoint-x-0").mkdir()
    assert CheckpointStore(tmp_path).all() == {}
