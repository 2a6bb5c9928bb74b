import argparse
import json
import multiprocessing
import time

import numpy as np
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
        "empty", "one_hot", "cutmix", "mixup", "random_mix", "random_mix, size read", "resizemix",
        "random_mix with resizemix", "cutmix elem", "mixup elem", "random_mix elem",
        "flip", "erasing", "jitter", "3a", "rand", "recipe",
    ]  # fmt: skip
    assert record["results"]["empty"]["above_ms"] == {"median": 0, "low": 0, "high": 0}
    assert all(len(values) == 2 for values in record["seconds"].values())
    assert all(figures["build_s"]["low"] > 0 for figures in record["results"].values())
    table = capsys.readouterr().out
    assert all(
        text in table for text in [*record["results"], "ms / batch", "ms above empty", "cpu ms above empty", "build s"]
    )


@pytest.mark.parametrize(("mode", "operators"), [("off", "portable"), ("auto", None)])
def test_the_report_says_which_operators_were_measured(capsys, mode, operators):
    with native.using(mode):
        assert main([*TINY, "--only", "one_hot"]) == 0
        expected = operators or native.implementation()
    assert capsys.readouterr().out.splitlines()[-1] == f"native operators: {expected}"


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
        assert np.std(images.as_tensor(), axis=(1, 2)).min() > 20  # of no row one color
        seen.add((images.dtype.name, images.layout(), *images.as_tensor().shape(), *targets.as_tensor().shape()))
        run(pipeline, batches)

    monkeypatch.setattr(overhead, "_run", run_and_look)
    monkeypatch.setattr(overhead, "GRAPHS", {"empty": overhead.GRAPHS["cutmix"]})  # the one row that always runs
    assert main([*TINY, *flags.split()]) == 0
    assert seen == {(dtype, "HWC", 8, side, side, 3, 8, 10)}


def test_a_longer_definition_is_seen(monkeypatch, tmp_path):
    def slow(images, labels, args):
        time.sleep(0.2)
        return images, labels

    monkeypatch.setattr(overhead, "GRAPHS", {"empty": overhead.GRAPHS["empty"], "slow": slow})
    path = tmp_path / "figures.json"
    assert main([*TINY, "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert record["results"]["slow"]["build_s"]["low"] >= 0.2 > record["results"]["empty"]["build_s"]["low"]
    assert record["results"]["slow"]["above_ms"]["low"] < 100  # of a batch it is no part


@pytest.fixture
def outputs():
    """Of one batch of 64 images of 32 px of a row; and the images that it is given."""

    def run(name):
        args = argparse.Namespace(img_size=32, num_classes=10)
        pixels = overhead._pixels(32)
        settings = {"device": "cpu", "batch_size": 64, "num_threads": 2, "device_id": None}
        pipeline = overhead._pipeline(overhead.GRAPHS[name], args, pixels, **settings)
        pipeline.build()
        images, targets, *_ = (np.array(output.as_tensor()) for output in pipeline.run())
        return pixels, images, targets

    return run


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("empty", 0, 0),
        ("flip", 0.3, 0.7),
        ("erasing", 0.4, 0.85),
        ("jitter", 0.99, 1),
        ("3a", 0.99, 1),
        ("rand", 0.6, 0.95),
    ],
)
def test_a_row_changes_as_many_images_as_its_augmentation_does(outputs, name, low, high):
    """Flips half of them; erasing a quarter of the rest; RandAugment leaves a quarter of the rest alone."""
    pixels, images, _ = outputs(name)
    assert images.dtype == np.uint8
    assert low <= np.mean([(image != pixels).any() for image in images]) <= high


def test_the_recipe_mixes_and_normalizes(outputs):
    _, images, targets = outputs("recipe")
    assert images.dtype == np.float32
    assert images.shape == (64, 32, 32, 3)
    assert len({image.tobytes() for image in images}) > 48
    assert abs(images.mean()) < 2
    assert np.allclose(targets.sum(1), 1)


def test_rows_that_need_uint8_images_are_left_out_of_others(capsys):
    assert main([*TINY, "--dtype", "float32", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert "left out: flip, erasing, jitter, 3a, rand, recipe augment uint8 images only" in out
    assert main([*TINY, "--dtype", "float32", "--only", "mixup", "rand"]) == 2
    error = capsys.readouterr().err
    assert "rand augment uint8 images only: leave out --dtype float32" in error
    assert error.count("\n") == 1


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
