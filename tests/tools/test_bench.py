import json
import statistics

import pytest

from dali_mix.tools.bench import timing
from dali_mix.tools.bench.__main__ import main

TINY_STEP = (
    "step --device cpu --model vit_tiny_patch16_224 --model-kwargs patch_size=8 embed_dim=32 depth=2 num_heads=2 "
    "--img-size 32 -b 4 --num-classes 10"
).split()


@pytest.mark.parametrize("extra", [[], ["--amp", "--steps", "2"]])
def test_the_step_benchmark_measures_every_alternative_and_part(tmp_path, capsys, extra):
    path = tmp_path / "figures.json"
    assert main([*TINY_STEP, "--rounds", "2", *extra, "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert list(record["results"]) == list(record["seconds"]) == ["plain", "mixup", "smmix"]
    assert record["results"]["mixup"]["ratio"]["median"] == 1
    assert all(figures["peak_memory_mib"] is None for figures in record["results"].values())
    assert record["environment"]["timm"]
    assert list(record["parts"]) == ["probe", "regions", "forward", "backward", "update"]
    # Round by round the parts make up the instrumented step.
    assert all(len(seconds) == 2 for seconds in record["part_seconds"].values())
    assert sum(figures["share"]["median"] for figures in record["parts"].values()) == pytest.approx(1)
    out = capsys.readouterr().out
    assert all(name in out for name in [*record["results"], *record["parts"]])
    assert "peak memory" not in out


def test_the_parts_make_up_about_an_smmix_step(tmp_path):
    path = tmp_path / "figures.json"
    assert main([*TINY_STEP, "--rounds", "5", "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    step = statistics.median(record["seconds"]["smmix"])
    parts = statistics.median(map(sum, zip(*record["part_seconds"].values(), strict=True)))
    assert step / 3 < parts < step * 3  # wide, as the steps take milliseconds and the machine has other work


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model vit_tiny_patch16_225", "did you mean"),
        ("--model resnet18", "resnet"),
        ("--img-size 0", "--img-size must be at least 1"),
        ("--img-size 33", "use 32 or 40"),
        ("--img-size 16", "token grid of 2 x 2"),
        ("--drop-path 2", "--drop-path must lie in [0, 1]"),
        ("--model-kwargs depth", "NAME=VALUE"),
    ],
)
def test_a_step_that_cannot_be_measured_is_one_line(flags, message, capsys):
    flags = flags.split()
    base = [*TINY_STEP[:3], "--num-classes", "10"] if "resnet18" in flags else TINY_STEP
    assert main([*base, *flags]) == 2
    error = capsys.readouterr().err
    assert message.lower() in error.lower()
    assert error.count("\n") == 1


@pytest.mark.gpu
def test_the_step_benchmark_measures_memory_on_a_gpu(tmp_path, capsys):
    path = tmp_path / "figures.json"
    assert main([*TINY_STEP, "--device", "cuda", "--rounds", "2", "--amp", "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert all(figures["peak_memory_mib"] > 0 for figures in record["results"].values())
    assert "peak memory in MiB" in capsys.readouterr().out


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
