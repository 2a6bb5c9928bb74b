"""However a process with pipelines ends, it ends soon and with the right exit code."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PRELUDE = """
import gc, json, multiprocessing, os, signal, sys
import torch
from dali_mix import ConfigError, MixLoader
from pipelines.imagenet import imagenet_train, imagenet_val

options = dict(batch_size=8, img_size=32, device="cpu", num_threads=2)
def train():
    return MixLoader(imagenet_train(sys.argv[1] + "/train", **options))
def val():
    return MixLoader(imagenet_val(sys.argv[1] + "/val", **options), "partial")
def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

# Each case in a process of its own, forked before DALI has run, which saves it the imports.
RUN_CASES = """
def exit_code_of(case, log):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)  # ends a process that hangs, wherever it does
        os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY), 1)
        os.dup2(1, 2)
        exec(case, globals())
        sys.exit()  # through the interpreter's own end
    return wait(pid)

for name, case in json.load(sys.stdin).items():
    print(json.dumps([name, exit_code_of(case, sys.argv[2] + "/" + name)]), flush=True)
"""

FORK = """
loader, other = train(), val()
batch, _ = next(loader), list(other)
pid = os.fork()
if pid == 0:
    {child}
code = wait(pid)
assert len(list(loader)) == len(loader), "the parent's loader has suffered"
sys.exit(code)
"""

REFUSED = """
loader = train()
batch = next(loader)
pid = os.fork()
if pid == 0:
    uses = dict(next=lambda: next(loader), len=lambda: len(loader), state=loader.state_dict, new=lambda: next(train()))
    for name, use in uses.items():
        try:
            use()
        except ConfigError as error:
            print(name, error)
    sys.exit(3)
sys.exit(wait(pid))
"""

FORKED_BEFORE = """
pid = os.fork()
count = len(list(train()))
if pid == 0:
    sys.exit(count)
assert wait(pid) == count > 0
"""

MULTIPROCESSING = """
loader = train()
batch = next(loader)
context = multiprocessing.get_context("fork")
process = context.Process(target=sys.exit, args=(3,))
process.start()
with context.Pool(2) as pool:
    assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]
    pool.close()
    pool.join()
process.join()
assert len(list(loader)) == len(loader)
sys.exit(process.exitcode)
"""

DATA_LOADER = """
loader = train()
batch = next(loader)
numbers = torch.utils.data.DataLoader(range(40), num_workers=2, multiprocessing_context="fork", batch_size=4)
for _ in range(2):
    assert torch.cat([left for left, right in zip(numbers, loader)]).numel() > 0
assert torch.cat(list(numbers)).tolist() == list(range(40))
"""

CASES = {
    "exception": ("for batch in train(): raise ValueError('stop')", 1),
    "sys.exit": ("for batch in train(): sys.exit(3)", 3),
    "sys.exit in with": ("with train() as loader:\n    next(loader)\n    sys.exit(3)", 3),
    "never closed": ("loader = train(); batch = next(loader)", 0),
    "closed twice": ("loader = train(); batch = next(loader); loader.close(); loader.close()", 0),
    "two alive": ("one, two = train(), val(); next(one); list(two); next(two)", 0),
    "fork, exit": (FORK.format(child="sys.exit(3)"), 3),
    "fork, close": (FORK.format(child="loader.close(); other.close(); gc.collect(); sys.exit(3)"), 3),
    "fork, delete": (FORK.format(child="del batch, loader, other; gc.collect(); os._exit(3)"), 3),
    "fork, use": (REFUSED, 3),
    "fork, then load": (FORKED_BEFORE, 0),
    "multiprocessing": (MULTIPROCESSING, 3),
    "data loader": (DATA_LOADER, 0),
}


@contextmanager
def python(code, *arguments):
    """A process of its own; all that it has forked is gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, *map(str, arguments)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def ends(image_folder, tmp_path_factory):
    """How each case ended: its exit code, and what it printed."""
    logs = tmp_path_factory.mktemp("logs")
    with python(RUN_CASES, image_folder, logs) as process:
        out, err = process.communicate(json.dumps({name: case for name, (case, _) in CASES.items()}), timeout=300)
    assert process.returncode == 0, err
    return {name: (code, (logs / name).read_text()) for name, code in map(json.loads, out.splitlines())}


@pytest.mark.parametrize("name", CASES)
def test_a_process_ends(name, ends):
    code, text = ends[name]
    assert code == CASES[name][1], text
    assert ("Traceback" in text) == (name == "exception")


def test_an_exception_is_what_is_seen(ends):
    assert ends["exception"][1].strip().endswith("ValueError: stop")


def test_a_forked_process_is_refused_pipelines(ends):
    lines = ends["fork, use"][1].splitlines()
    assert [line.split()[0] for line in lines] == ["next", "len", "state", "new"]
    assert all("forked" in line and "'spawn'" in line for line in lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_process_at_once(number, image_folder):
    with python("loader = train()\nwhile True: list(loader); print('ready', flush=True)", image_folder) as process:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        process.send_signal(number)
        _, err = process.communicate(timeout=15)
    assert process.returncode == -number
    assert ("KeyboardInterrupt" in err) == (number == signal.SIGINT)
