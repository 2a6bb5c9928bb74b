"""Processes and files that help another one."""

import os
import signal
import subprocess
import tempfile

import pytest

from dali_mix import helpers
from dali_mix.helpers import require_temporary_folder, scratch_file, start_helper


def test_no_signal_but_kill_ends_a_helper_from_its_first_instruction_on():
    """``cat`` has no handlers: what it does not die of was blocked when it began."""
    process = start_helper(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2"):
        process.send_signal(signal.Signals[f"SIG{name}"])
    assert process.communicate(b"still here", timeout=10)[0] == b"still here"
    assert process.returncode == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()  # of this process


def test_a_helper_is_in_no_group_of_ours():
    process = start_helper(["cat"], stdin=subprocess.PIPE)
    assert os.getpgid(process.pid) == process.pid
    process.communicate(timeout=10)


def test_a_scratch_file_needs_no_folder(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    with scratch_file() as file:
        file.write(b"text")
        file.flush()
        with open(f"/proc/self/fd/{file.fileno()}", "rb") as again:
            assert again.read() == b"text"


def test_where_no_temporary_folder_can_be_written_shared_memory_is_one(monkeypatch):
    def no_folder():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", no_folder)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    require_temporary_folder()
    assert tempfile.tempdir == os.environ["TMPDIR"] == "/dev/shm"
    monkeypatch.setattr(helpers, "_SHARED_MEMORY", "/nonexistent")
    with pytest.raises(FileNotFoundError, match=r"^no folder .* name one in TMPDIR, or .* --tmpfs /tmp$"):
        require_temporary_folder()
