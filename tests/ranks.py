"""Scripts on one or several ranks, in processes that need not import PyTorch first.

Importing PyTorch, timm and DALI takes nine seconds of a core, and a run of a tiny model little more than that.  So one
process has imported them, and each rank is a fork of it, with the variables that torchrun would set.  What users start,
``python train_imagenet.py`` and ``torchrun``, is run as it is by the tests that are about it.

Run as a program, this file is that process: it takes a request a line, and answers each when all its ranks have ended.
"""

import atexit
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
_GRACE_S = 5.0
"""Between SIGTERM and SIGKILL, for the ranks that are left when one has failed."""


class _Server:
    """The process that has imported everything; one for each process of tests."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__], env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def ask(self, request, timeout):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        # Where the ranks end in time, so does the server; else it ends them.
        if not select.select([self._process.stdout], [], [], timeout + 60)[0]:
            raise TimeoutError("the server of ranks does not answer")
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


_server = None


def run_ranks(script, *argv, ranks=1, cwd, env=(), timeout=240):
    """Run a Python file on so many ranks of this machine, with the variables of this process and those of ``env``.

    Returns:
        subprocess.CompletedProcess, its exit code that of the first rank that failed, or 0.
    """
    global _server
    if _server is None:
        _server = _Server()
        atexit.register(_server.close)
    with tempfile.TemporaryDirectory() as folder:
        texts = [Path(folder) / name for name in ("stdout", "stderr")]
        request = {
            "argv": [str(script), *map(str, argv)], "ranks": ranks, "cwd": str(cwd), "timeout": timeout,
            "env": os.environ | dict(env), "outputs": list(map(str, texts)),
        }  # fmt: skip
        code = _server.ask(request, timeout)
        out, err = (path.read_text(errors="surrogateescape") for path in texts)
    if code is None:
        raise subprocess.TimeoutExpired(request["argv"], timeout, out, err)
    return subprocess.CompletedProcess(request["argv"], code, out, err)


def _serve():
    import pipelines.cifar
    import pipelines.imagenet  # noqa: F401
    from dali_mix.train import main  # noqa: F401

    assert len(os.listdir("/proc/self/task")) == 1, "a fork has only the thread that forks"
    for line in sys.stdin:
        print(json.dumps(_run(**json.loads(line))), flush=True)


def _run(argv, ranks, cwd, env, outputs, timeout):
    """The exit code of the first rank that failed, 0 if none did, None if they took too long."""
    files = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for path in outputs]
    waiting = {}
    port = _free_port()
    for rank in range(ranks):
        variables = env | (_launchers(rank, ranks, port) if ranks > 1 else {})
        waiting[_fork(argv, cwd, variables, files)] = rank
    for descriptor in files:
        os.close(descriptor)
    code = _wait(waiting, time.monotonic() + timeout)
    if waiting:
        _end(waiting)
    return code


def _wait(waiting, end):
    """Until all ranks have ended, or one has failed; those that have ended are taken out of ``waiting``."""
    while waiting:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            waiting.pop(pid, None)
            if code := os.waitstatus_to_exitcode(status):
                return code
        elif time.monotonic() > end:
            return None
        else:
            time.sleep(0.01)
    return 0


def _end(waiting):
    """As the launcher does."""
    for number in signal.SIGTERM, signal.SIGKILL:
        for pid in waiting:
            os.killpg(pid, number)
        _wait(waiting, time.monotonic() + _GRACE_S)
        while waiting and _wait(waiting, time.monotonic() + _GRACE_S):
            pass  # the next one that has failed


def _launchers(rank, ranks, port):
    """What torchrun sets for a rank of one machine, but what tells that it is torchrun."""
    size, name = str(ranks), str(rank)
    return {
        "RANK": name, "LOCAL_RANK": name, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _fork(argv, cwd, env, files):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        for target, descriptor in enumerate([os.open(os.devnull, os.O_RDONLY), *files]):
            os.dup2(descriptor, target)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.argv = argv
        code = _run_script(argv[0])
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_script(path):
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as exit_:
        if isinstance(exit_.code, str):
            print(exit_.code, file=sys.stderr)
            return 1
        return exit_.code or 0
    return 0


if __name__ == "__main__":
    _serve()
