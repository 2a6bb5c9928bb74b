import json
import multiprocessing
import time

import pytest

from dali_mix import native
from dali_mix.tools.bench import clock, overhead, report, timing
from dali_mix.tools.bench.__main__ import main

TINY = "overhead --device cpu -b 8 --num-classes 10 --batches 3 --rounds 2".split()


def test_every_row_is_measured_and_compared_with_the_empty_pipeline(tmp_path, capsys):
    path = tmp_path / "figures.json"
    assert main([*TINY, "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert list(record["results"]) == [
        "empty", "one_hot", "cutmix", "mixup", "random_mix", "random_mix, size read", "cutmix elem", "mixup elem",
        "random_mix elem",
    ]  # fmt: skip
    assert record["results"]["empty"]["above_ms"] == {"median": 0, "low": 0, "high": 0}
    assert all(len(values) == 2 for values in record["seconds"].values())
    table = capsys.readouterr().out
    assert all(text in table for text in [*record["results"], "ms / batch", "ms above empty", "cpu ms above empty"])


@pytest.mark.parametrize(("mode", "operators"), [("off", "portable"), ("auto", None)])
def test_the_report_says_which_operators_were_measured(capsys, mode, operators):
    with native.using(mode):
        assert main([*TINY, "--only", "one_hot"]) == 0
        expected = operators or native.implementation()
    assert capsys.readouterr().out.splitlines()[-1] == f"mixing operators: {expected}"


def test_more_work_takes_longer(tmp_path):
    """Far more classes: the one-hot rows are written in full, so the row must stand above the empty pipeline."""
    path = tmp_path / "figures.json"
    flags = "--only one_hot -b 64 --num-classes 50000 --rounds 3 --batches 10".split()
    assert main([*TINY, *flags, "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert list(record["results"]) == ["empty", "one_hot"]
    assert record["results"]["one_hot"]["above_ms"]["low"] > 0.5  # 12.8 MB a batch
    assert record["results"]["one_hot"]["cpu_above_ms"]["low"] > 0.5


@pytest.mark.parametrize(("flags", "side", "dtype"), [("--dtype float32", 16, "FLOAT"), ("--img-size 5", 5, "UINT8")])
def test_the_flags_reach_the_pipeline(monkeypatch, flags, side, dtype):
    seen = set()
    run = overhead._run

    def run_and_look(pipeline, batches):
        images, targets = pipeline.run()
        seen.add((images.dtype.name, images.layout(), *images.as_tensor().shape(), *targets.as_tensor().shape()))
        run(pipeline, batches)

    monkeypatch.setattr(overhead, "_run", run_and_look)
    monkeypatch.setattr(overhead, "GRAPHS", {"empty": overhead.GRAPHS["cutmix"]})  # the one row that always runs
    assert main([*TINY, *flags.split()]) == 0
    assert seen == {(dtype, "HWC", 8, side, side, 3, 8, 10)}


def test_a_number_below_one_is_one_line(capsys):
    assert main([*TINY, "--num-classes", "0"]) == 2
    error = capsys.readouterr().err
    assert "--num-classes must be at least 1" in error
    assert error.count("\n") == 1


def _work(seconds):
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass


def _work_then_wait(seconds, done, leave):
    _work(seconds)
    done.set()
    leave.wait()


def test_processor_time_counts_threads_and_processes_that_still_run():
    context = multiprocessing.get_context("fork")
    done, leave = context.Event(), context.Event()
    watch = clock.Stopwatch()
    worker = context.Process(target=_work_then_wait, args=(0.2, done, leave))
    worker.start()
    done.wait()
    running = watch.read().cpu_seconds
    leave.set()
    worker.join()
    assert running >= 0.15
    assert 0.15 <= watch.read().cpu_seconds < running + 0.15  # counted once, also after it has ended
    _work(0.1)
    assert watch.read().cpu_seconds >= running + 0.09


def test_the_first_round_counts_only_where_there_is_no_other():
    calls = []
    assert timing.measure({"a": lambda: calls.append(0) or len(calls)}, rounds=2) == {"a": [2, 3]}
    slow = {"a": lambda: time.sleep(0.02) or 1.0}
    assert timing.measure(slow, rounds=5, limit_s=0.01) == {"a": [1.0]}


def test_a_table_has_the_columns_that_the_record_names():
    figures = {"speed": timing.spread([10.0, 20.0, 30.0]), "share": timing.spread([0.25])}
    record = {
        "environment": {"cpu": "x", "gpu": None},
        "place": "y",
        "columns": [report.Column("share", "share of {place}", ".2f"), report.Column("speed", "speed", ".0f")],
        "results": {"long name": figures},
        "lines": ["the end"],
    }
    assert report.format_table(record).splitlines() == [
        "cpu x",
        "                  share of y        speed",
        "long name  0.25 (0.25..0.25)  20 (15..25)",
        "the end",
    ]
