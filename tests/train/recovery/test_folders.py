"""The folders of runs: who has one, which is continued, and what two starts at once come to."""

import fcntl
import multiprocessing
import os
import time
from contextlib import contextmanager

import pytest

from dali_mix.errors import ConfigError
from dali_mix.train import locks, run_folder
from dali_mix.train.checkpoint import resume
from dali_mix.train.checkpoint.resume import find_resume_point
from dali_mix.train.checkpoint.store import CheckpointStore, Position
from dali_mix.train.run_folder import Place, end_start, lock_run, unlock_all
from dali_mix.train.settings.sections import Recovery

FACTS = {"fingerprint": {"seed": 1}, "computed_by": {}, "launcher": "", "batches": 7, "rows": []}


@pytest.fixture(autouse=True)
def nothing_held():
    yield
    unlock_all()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(run_folder, "_WAIT_S", 0.3)


def place(output, experiment="run"):
    return Place(output, experiment, "vit")


class Alone:
    is_main, rank = True, 0

    def broadcast(self, value):
        return value


@contextmanager
def in_another_process(work, *args):
    """Do something in a process of its own, which then waits."""
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()

    def run():
        unlock_all()
        work(*args)
        ready.set()
        done.wait()

    process = context.Process(target=run)
    process.start()
    assert ready.wait(20)
    try:
        yield process
    finally:
        done.set()
        process.join()


def make_run(output, name, experiment=""):
    folder = output / name
    folder.mkdir(parents=True)
    (folder / "args.yaml").write_text(f"experiment: '{experiment}'\n")
    return folder


def test_a_lock_whose_file_was_removed_by_hand_still_holds(tmp_path):
    with in_another_process(lock_run, tmp_path) as other:
        (tmp_path / ".lock").unlink()
        with pytest.raises(ConfigError, match="is in use by another process; wait for it or end it"):
            lock_run(tmp_path)
        (tmp_path / ".lock").unlink()
    assert other.exitcode == 0
    lock_run(tmp_path)


def test_a_lock_that_was_removed_while_it_was_waited_for_is_not_one(tmp_path, monkeypatch):
    """The file that is locked in the end is the one that others see."""
    taken = []

    def flock(descriptor, path=None, original=locks._flock):
        if not taken:
            (tmp_path / ".lock").unlink()  # its holder has removed it and gone
        taken.append(original(descriptor, path))
        return taken[-1]

    monkeypatch.setattr(locks, "_flock", flock)
    lock_run(tmp_path)
    assert len(taken) == 4  # file and folder, twice
    with (tmp_path / ".lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_holder_is_named(tmp_path):
    with (
        in_another_process(lock_run, tmp_path) as other,
        pytest.raises(ConfigError, match=f"in use by process {other.pid} on "),
    ):
        lock_run(tmp_path)


def test_no_lock_is_taken_through_a_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    run = make_run(tmp_path, "run")
    (run / ".lock").symlink_to(victim)
    with pytest.raises(ConfigError, match=r"run cannot be written: \.lock is a link, remove it"):
        lock_run(run)
    os.unlink(run / ".lock")
    os.link(victim, run / ".lock")
    lock_run(run)
    assert victim.read_text() == "precious"


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    lock_run(tmp_path)
    assert "cannot be locked (Operation not supported): see to it that no second run" in caplog.text


def test_without_a_name_the_run_that_was_started_last_comes_first(tmp_path):
    """After the clock was set back, too."""
    where = place(tmp_path, "")
    first, second = (make_run(tmp_path, f"{stamp}-vit") for stamp in ("20270101-000000", "20260101-000000"))
    never_numbered = make_run(tmp_path, "20280101-000000-vit")
    where.note_start(first)
    where.note_start(second)
    assert where.find_folders() == [second, first, never_numbered]
    where.note_start(first)  # it was continued
    assert where.find_folders() == [first, second, never_numbered]


def start_and_wait(output, experiment, answers, barrier):
    """What a run does until its first checkpoint, all but the training."""
    where = place(output, experiment)
    barrier.wait()
    try:
        start = find_resume_point(where, Recovery(auto_resume=True), FACTS, Alone())
        folder = start.folder or where.make_folder()
        where.note_start(folder)
        (folder / "args.yaml").write_text(f"experiment: '{experiment}'\n")
        time.sleep(0.05)
        path = CheckpointStore(folder / "checkpoints").save(Position(0, 0), {"run.pt": lambda: b"x"})
        end_start()
        answers.put(str(path))
        time.sleep(1.5)
    except ConfigError as error:
        answers.put(f"refused: {error}")
    finally:
        unlock_all()


@pytest.mark.parametrize("experiment", ["run", ""])
def test_starts_at_once_end_as_one_run_and_clear_refusals(tmp_path, experiment, monkeypatch):
    monkeypatch.setattr(resume, "read_run", lambda path: FACTS | {"position": [0, 0]})
    monkeypatch.setattr(resume, "check", lambda path: None)
    monkeypatch.setattr(run_folder, "_WAIT_S", 0.6)
    context = multiprocessing.get_context("fork")
    for attempt in range(2):
        answers, barrier = context.Queue(), context.Barrier(6)
        arguments = (tmp_path / str(attempt), experiment, answers, barrier)
        processes = [context.Process(target=start_and_wait, args=arguments) for _ in range(6)]
        for process in processes:
            process.start()
        given = [answers.get(timeout=30) for _ in processes]
        for process in processes:
            process.join()
        runs = [answer for answer in given if not answer.startswith("refused: ")]
        assert len(runs) == 1, given
        assert all("is in use by process" in answer or "is starting the same run" in answer
                   for answer in given if answer not in runs), given  # fmt: skip
        assert len(os.listdir(tmp_path / str(attempt))) == 1  # and no lock of a start is left


def test_starts_without_auto_resume_get_folders_of_their_own(tmp_path):
    where = place(tmp_path)
    with in_another_process(where.make_folder):
        assert where.make_folder() == tmp_path / "run-1"


def test_a_run_that_another_process_has_begun_meanwhile_is_continued(tmp_path, monkeypatch):
    """It had no checkpoint when it was looked at, and has one when its holder lets it go."""
    monkeypatch.setattr(resume, "read_run", lambda path: FACTS | {"position": [0, 0]})
    monkeypatch.setattr(resume, "check", lambda path: None)
    run = make_run(tmp_path, "run", "run")
    original = resume.lock_run

    def lock_later(folder):
        CheckpointStore(folder / "checkpoints").save(Position(0, 0), {"run.pt": lambda: b"x"})
        original(folder)

    monkeypatch.setattr(resume, "lock_run", lock_later)
    start = find_resume_point(place(tmp_path), Recovery(auto_resume=True), FACTS, Alone())
    assert start.checkpoint == run / "checkpoints" / "checkpoint-0-0"


def test_other_settings_are_another_start(tmp_path):
    with in_another_process(place(tmp_path, "").begin_start, {"seed": 1}):
        place(tmp_path, "").begin_start({"seed": 2})
        end_start()
        with pytest.raises(ConfigError, match=r"process \d+ on \S+ is starting the same run in "):
            place(tmp_path, "").begin_start({"seed": 1})


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for output, experiment in [(tmp_path / "file", "x"), (tmp_path, "n" * 300), (tmp_path, "file/x")]:
        for begin in (Place.make_folder, lambda where: where.begin_start({})):
            if experiment == "n" * 300 and begin is not Place.make_folder:
                continue  # its lock has another name
            with pytest.raises(ConfigError, match=r"--output .* cannot be written: (Not a dir|File name|File exists)"):
                begin(place(output, experiment))
