"""Descriptor 2 of a run: decoders' messages once and counted, all else at once and unchanged, whatever happens."""

import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dali_mix.train.output import stderr
from tests.hostile import encoded, flipped_bytes, photo
from tests.train.conftest import FAST

ROOT = Path(__file__).parents[3]
IMPORT = f"import sys; sys.path.insert(0, {str(Path(stderr.__file__).parent)!r}); from stderr import quiet_decoders\n"
"""Without the package, which would take seconds."""

WARNING = "Corrupt JPEG data: 12 extraneous bytes before marker 0xd9"
FLOOD = f"for n in range(500): os.write(2, b'{WARNING}\\n'.replace(b'12', b'%d' % n))\n"


def start(body, after="", **options):
    """A process that runs ``body`` in the context, then ``after``; stderr is a pipe."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    code = f"import os, signal, subprocess, time\n{IMPORT}with quiet_decoders():\n{lines}{after}"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **({"stderr": subprocess.PIPE} | options))


def run(body, after="", **options):
    """Exit code and stderr."""
    with start(body, after, **options) as process:
        said = process.communicate(timeout=120)[1]
    return process.returncode, said.decode() if said is not None else ""


def passed_on(data):
    """What the process at the other end makes of the bytes."""
    return subprocess.run([sys.executable, "-I", "-S", stderr.__file__], input=data, stderr=subprocess.PIPE).stderr


DECODE = """
import sys
import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
pipeline = Pipeline(64, 16, None, prefetch_queue_depth=1)
with pipeline:
    pipeline.set_outputs(fn.decoders.image(fn.external_source(name="jpegs", dtype=types.UINT8, ndim=1)))
pipeline.build()
for name in sys.argv[1:]:
    for _ in range(5):
        try:
            pipeline.feed_input("jpegs", [np.fromfile(name, np.uint8)] * 64)
            pipeline.run()
        except RuntimeError:
            pass
"""


def damaged_files(folder):
    """A cut JPEG, and some with other bytes in their data."""
    data = {"cut.jpg": encoded()[:-500]}
    for seed in range(3):
        damaged = bytearray(encoded(photo(seed=seed), quality=90))
        draw = random.Random(seed)
        for place in draw.sample(range(len(damaged) // 2, len(damaged) - 2), 40):
            damaged[place] = draw.randrange(255)
        data[f"damaged{seed}.jpg"] = bytes(damaged)
    for name, content in data.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in data]


def test_what_dali_really_writes_is_told_once_a_kind(tmp_path):
    """Sixteen threads, so that some lines are mixed up."""
    files = damaged_files(tmp_path)
    flood = subprocess.run([sys.executable, "-c", DECODE, *files], capture_output=True).stderr
    assert flood.count(b"\n") > 1000
    shown = passed_on(flood).decode().splitlines()
    assert len(shown) < 20, shown
    for text in ("Could not decode", "Corrupt JPEG data: "):
        first = next(line for line in shown if text in line)
        assert first.encode() in flood.splitlines()
    whole = [line for line in flood.decode().splitlines() if line.count("[libjpeg_turbo_decoder] ") == 1]
    told = [line for line in shown if " messages like: " in line and "Could not decode" in line]
    assert sum(int(line.split()[0]) for line in told) >= len(whole) > 200


def test_other_bytes_pass_unchanged():
    draw = random.Random(1)
    noise = bytes(draw.randrange(256) for _ in range(20_000)) + b"\n\n\n" + b"x" * 200_000 + b"\r 50 %\r100 %\n"
    assert passed_on(noise) == noise
    assert passed_on(b"\n" + noise + b"no newline at the end") == b"\n" + noise + b"no newline at the end"


def test_pieces_of_two_threads_are_their_two_messages():
    level, module, text = b"\x1b[0;33m[WARNING] \x1b[0m", b"nvjpeg_cuda_decoder", b"ROI of %d px is not supported"
    whole = level + b"[" + module + b"] " + text % 5 + b"\n"
    mixed = level * 2 + b"[[" + module + module + b"] ] " + text % 6 + text % 7 + b"\n\n"
    other = level + b"[" + module + b"] another\n"
    shown = passed_on(whole + mixed * 10 + other + mixed + b"\n").replace(b"\x1b[0;33m", b"").replace(b"\x1b[0m", b"")
    assert shown.decode().splitlines() == [
        "[WARNING] [nvjpeg_cuda_decoder] ROI of 5 px is not supported",
        "[WARNING] [nvjpeg_cuda_decoder] another",
        "",
        "23 messages like: [nvjpeg_cuda_decoder] ROI of 5 px is not supported",
    ]


def test_a_fatal_error_and_a_quoted_message_are_no_message():
    lines = b"[FATAL ERROR] [nvjpeg_cuda_decoder] out of memory\nlog: [nvjpeg_cuda_decoder] ROI\n" * 2
    assert passed_on(lines) == lines


def test_counts_come_at_the_end_and_in_between():
    shown = passed_on(f"{WARNING}\n".encode() * 12_345).decode().splitlines()
    assert shown == [
        WARNING,
        f"1,000 messages so far like: {WARNING}",
        f"10,000 messages so far like: {WARNING}",
        f"12,345 messages like: {WARNING}",
    ]


def test_kinds_without_end_do_not_flood_either():
    names = [f"{n:04d}".translate(str.maketrans("0123456789", "abcdefghij")) for n in range(1000)]
    shown = passed_on("".join(f"TIFFFetch: field {name} is unknown\n" for name in names).encode()).decode().splitlines()
    assert len(shown) == 202
    assert shown[-1].startswith("800 messages like: TIFFFetch: ")


def test_the_exit_code_and_what_python_writes_stay():
    code, said = run(FLOOD + "print('by Python', file=sys.stderr)\nsys.exit(7)")
    assert code == 7
    assert sorted(said.splitlines()) == sorted(
        [WARNING.replace("12", "0"), "by Python", "500 messages like: " + WARNING.replace("12", "0")]
    )


def test_after_the_run_descriptor_2_is_what_it_was():
    where = "print(os.readlink('/proc/self/fd/2'), len(os.listdir('/proc/self/fd')), file=sys.stderr)\n"
    code, said = run("pass", after=where)
    with subprocess.Popen([sys.executable, "-c", f"import os, sys\n{where}"], stderr=subprocess.PIPE) as plain:
        expected = plain.communicate()[1].decode()
    assert code == 0
    assert said.split()[0].startswith("pipe:")
    assert said.split()[1] == expected.split()[1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM])
def test_a_death_loses_nothing(number):
    body = FLOOD + "for n in range(5000): os.write(2, b'last words %d\\n' % n)\n"
    code, said = run(body + f"os.kill(os.getpid(), signal.Signals({int(number)}))\ntime.sleep(60)")
    assert code == -number
    lines = said.splitlines()
    assert [line for line in lines if line.startswith("last")] == [f"last words {n}" for n in range(5000)]
    assert lines[-1] == "500 messages like: " + WARNING.replace("12", "0")


def test_signals_to_the_whole_group_leave_the_process_at_the_other_end():
    body = "for number in (2, 15): signal.signal(number, lambda *_: None)\nos.write(2, b'ready\\n')\n"
    body += "signal.pause()\nsignal.pause()\nos.write(2, b'still here\\n')\nos.kill(0, 9)"
    with start(body, start_new_session=True) as process:
        assert process.stderr.readline() == b"ready\n"
        for number in (signal.SIGINT, signal.SIGTERM):
            time.sleep(0.3)
            os.killpg(process.pid, number)
        assert process.stderr.read() == b"still here\n"
    assert process.returncode == -signal.SIGKILL


def test_the_beginning_of_a_line_does_not_wait_for_its_end():
    with start(
        "os.write(2, b'go on? ')\nsys.stdin.readline()\nos.write(2, b'yes\\n')", stdin=subprocess.PIPE
    ) as process:
        assert os.read(process.stderr.fileno(), 100) == b"go on? "
        assert process.communicate(b"\n", timeout=60)[1] == b"yes\n"


def test_a_terminal_stays_one():
    main, terminal = pty.openpty()
    body = "print(sys.stderr.isatty(), os.isatty(2), sys.stderr.encoding, file=sys.stderr)"
    with start(body, stderr=terminal) as process:
        os.close(terminal)
        assert process.wait(60) == 0
        assert os.read(main, 1000).split() == [b"True", b"False", b"utf-8"]
    os.close(main)


def test_without_a_stderr_nothing_is_started():
    code = f"{IMPORT}import stderr\nwith quiet_decoders(): print(stderr._start())".replace("'", '"')
    command = f"{sys.executable} -c '{code}' 2>&-"
    result = subprocess.run(command, shell=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert (result.returncode, result.stdout) == (0, "None\n")


def test_a_child_that_outlives_the_run_does_not_hold_it_up(tmp_path):
    done = tmp_path / "done"
    code = f"import time, os; time.sleep(8); os.write(2, b'late'); open({str(done)!r}, 'w')"
    body = FLOOD + f"child = subprocess.Popen([sys.executable, '-c', {code!r}])\nchild.returncode = 0"
    with start(body) as process:
        assert process.wait(60) == 0
        assert not done.exists()
        assert process.stderr.read().decode().splitlines()[1:] == [
            "500 messages like: " + WARNING.replace("12", "0"),
            "late",
        ]


def test_a_run_whose_other_end_is_killed_goes_on():
    body = "import logging; logging.basicConfig()\nfrom pathlib import Path\n"
    body += "(pid,) = Path('/proc/self/task/%d/children' % os.getpid()).read_text().split()\nos.kill(int(pid), 9)\n"
    body += "time.sleep(0.5)\ntry:\n    os.write(2, b'lost')\nexcept BrokenPipeError:\n    pass"
    code, said = run(body, after="print('goes on', file=sys.stderr)")
    assert code == 0
    assert said.splitlines()[-1] == "goes on"
    assert "ended early; some may be lost" in said


def test_a_real_run_on_damaged_images(image_folder, tmp_path):
    """Libjpeg warns of these and decodes them, in both epochs."""
    data = tmp_path / "images"
    shutil.copytree(image_folder, data)
    for path in sorted(data.glob("*/*/*.jpg"))[::3]:
        flipped_bytes()(path)
        content = path.read_bytes()
        path.write_bytes(content[:-2] + b"garbage" + content[-2:])
    command = [sys.executable, "train_imagenet.py", *FAST, "--data-dir", data, "--output", tmp_path / "out"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    warnings = [line for line in result.stderr.splitlines() if line.startswith("Corrupt JPEG data")]
    kinds = {stderr._NUMBER.sub(b"#", line.encode()) for line in warnings}
    assert len(warnings) == len(kinds) >= 1
    counted = [line for line in result.stderr.splitlines() if " messages like: Corrupt JPEG data" in line]
    assert sum(int(line.split()[0]) for line in counted) > 20
    assert "writing to" in result.stderr


@pytest.mark.distributed
def test_every_rank_has_its_own(tmp_path):
    script = tmp_path / "ranks.py"
    body = f"    {FLOOD}    os.write(2, b'rank %s\\n' % os.environ['RANK'].encode())\n"
    script.write_text(f"import os\n{IMPORT}with quiet_decoders():\n{body}")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert result.returncode == 0, result.stderr
    own = [line for line in result.stderr.splitlines() if "Corrupt" in line or line.startswith("rank")]
    first = WARNING.replace("12", "0")
    assert sorted(own) == sorted([first, f"500 messages like: {first}"] * 2 + ["rank 0", "rank 1"])
