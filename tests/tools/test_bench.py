import json

import pytest

from dali_mix.tools.bench import timing
from dali_mix.tools.bench.__main__ import main


def test_the_loader_benchmark_measures_every_alternative(tmp_path, image_folder, capsys):
    path = tmp_path / "figures.json"
    flags = "--device cpu -j 2 -b 8 --img-size 32 --rounds 2 --batches 2".split()
    assert main(["loader", "--data-dir", str(image_folder / "train"), *flags, "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert list(record["results"]) == ["none", "cutmix", "mixup", "random_mix"]
    assert record["results"]["none"]["ratio"]["median"] == 1
    assert all(len(seconds) == 2 for seconds in record["seconds"].values())
    assert record["environment"]["dali"]
    assert record["settings"]["batch_size"] == 8
    table = capsys.readouterr().out
    assert all(name in table for name in record["results"])


def test_a_missing_folder_is_one_line(tmp_path, capsys):
    assert main(["loader", "--data-dir", str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert "does not exist" in error
    assert error.count("\n") == 1


def test_alternatives_take_turns_in_changing_order():
    calls = []

    def alternative(name):
        return lambda: calls.append(name) or 1.0

    timing.interleave({name: alternative(name) for name in "abc"}, rounds=3)
    assert "".join(calls) == "abccbaabc"


def test_ratios_are_taken_round_by_round():
    figures = timing.summarise({"base": [1.0, 2.0, 4.0], "other": [2.0, 3.0, 4.0]}, "base", work=10)
    assert figures["other"]["ratio"]["median"] == pytest.approx(1.5)
    assert figures["base"]["per_s"] == pytest.approx({"median": 5.0, "low": 3.75, "high": 7.5})
