import pytest

from dali_mix.tools.bench import timing


def test_alternatives_take_turns_in_changing_order():
    calls = []

    def alternative(name):
        return lambda: calls.append(name) or 1.0

    timing.interleave({name: alternative(name) for name in "abc"}, rounds=3)
    assert "".join(calls) == "abccbaabc"


def test_ratios_are_taken_round_by_round():
    figures = timing.summarize({"base": [1.0, 2.0, 4.0], "other": [2.0, 3.0, 4.0]}, "base", work=10)
    assert figures["other"]["ratio"]["median"] == pytest.approx(1.5)
    assert figures["base"]["per_s"] == pytest.approx({"median": 5.0, "low": 3.75, "high": 7.5})
