"""Processes and files that help another one."""

import os
import signal
import subprocess
import tempfile

from dali_mix.helpers import scratch_file, start_helper


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
