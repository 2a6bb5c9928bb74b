"""What a run leaves to read: summary, lines, curves, trackers."""

import csv
import io
import logging
import math
import sys
import time
import types

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dali_mix.errors import ConfigError
from dali_mix.train import progress
from dali_mix.train.output import Progress, Summary, Trackers, WandbOptions, draw_curves, table

TRAINED = {"epoch": 0, "train_loss": 2.5, "lr": 1e-3, "img_per_s": 1234.4, "data_wait": 0.031}
EVALUATED = TRAINED | {"epoch": 1, "eval_loss": 1.5, "eval_top1": 70.125, "eval_top5": 90.0, "eval_ema_top1": 71.0}


def read(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


# Summary


def test_rows_without_evaluation_keep_the_columns_in_place(tmp_path):
    path = tmp_path / "summary.csv"
    summary = Summary(path)
    for row in (TRAINED, EVALUATED, TRAINED | {"epoch": 2}):
        summary.add(row)
    header, *lines = read(path)
    assert tuple(header) == summary.columns
    for line, row in zip(lines, summary.rows, strict=True):
        cells = dict(zip(header, line, strict=True))
        assert {name: float(cell) for name, cell in cells.items() if cell} == pytest.approx(row)


def test_an_unknown_column_is_refused_and_nothing_written(tmp_path):
    summary = Summary(tmp_path / "summary.csv")
    with pytest.raises(ValueError, match="no column eval_top2"):
        summary.add(TRAINED | {"eval_top2": 1.0})
    assert summary.rows == []
    assert len(read(tmp_path / "summary.csv")) == 1


def test_a_reopened_summary_goes_on(tmp_path):
    path = tmp_path / "summary.csv"
    for row in (TRAINED, EVALUATED, TRAINED | {"epoch": 2}):
        (summary := Summary(path, [TRAINED, EVALUATED][: int(row["epoch"])])).add(row)
    assert [line[0] for line in read(path)] == ["epoch", "0", "1", "2"]
    assert summary.best() is EVALUATED
    assert [file.name for file in tmp_path.iterdir()] == ["summary.csv"]


def test_refused_rows_leave_the_old_file(tmp_path):
    path = tmp_path / "summary.csv"
    Summary(path).add(TRAINED)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="no column nonsense"):
        Summary(path, [{"nonsense": 1.0}])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("eval_top1", [None, 10.0, 30.0, 30.0, 20.0], 2),
        ("eval_top1", [math.nan, 10.0], 1),
        ("eval_top1", [None, None], None),
        ("eval_top1", [], None),
        ("eval_loss", [3.0, None, 1.0, 1.0, 2.0], 2),
        ("eval_ema_loss", [3.0, math.nan, 4.0], 0),
        ("eval_ema_top5", [3.0, 4.0], 1),
    ],
)
def test_best(tmp_path, metric, values, best):
    summary = Summary(tmp_path / "summary.csv")
    for epoch, value in enumerate(values):
        summary.add({"epoch": epoch} | ({} if value is None else {metric: value}))
    found = summary.best(metric)
    assert found is (None if best is None else summary.rows[best])


@pytest.mark.parametrize("metric", ["top1", "train_loss", "eval_top2"])
def test_best_by_no_such_metric(tmp_path, metric):
    with pytest.raises(ValueError, match=metric):
        Summary(tmp_path / "summary.csv").best(metric)


# Progress


@pytest.fixture
def clock(monkeypatch):
    """Time that stands still until it is set."""
    clock = types.SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="dali_mix")
    return caplog


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_line_of_an_epoch(clock, log):
    shown = Progress(10, 100, shown=True)
    clock.now += 60
    shown.epoch_done(EVALUATED)
    shown.close()
    assert log.messages == [
        "epoch 2/10  training loss 2.500  top-1 70.12 %  top-5 90.00 %  EMA top-1 71.00 %  lr 1.00e-03  1234 img/s  "
        "data wait 3 %  left 04:00"
    ]


def test_line_of_an_epoch_without_evaluation(clock, log):
    shown = Progress(3, 100, shown=True)
    clock.now += 60
    shown.epoch_done(TRAINED)
    shown.epoch_done({"epoch": 2})
    shown.close()
    assert log.messages == [
        "epoch 1/3  training loss 2.500  lr 1.00e-03  1234 img/s  data wait 3 %  left 02:00",
        "epoch 3/3  left 00:00",
    ]


def test_time_left_after_a_resume_counts_only_what_this_process_trained(clock, log):
    shown = Progress(100, 100, shown=True, done_epochs=90)
    clock.now += 60
    shown.epoch_done({"epoch": 90})
    shown.close()
    assert log.messages == ["epoch 91/100  left 09:00"]


def test_now_and_then_a_line_where_there_is_no_terminal(clock, log):
    shown = Progress(4, 100, shown=True, done_epochs=1)
    for _ in range(5):
        clock.now += 6
        shown.show(1, 0.5, 2.0, 1e-3, img_per_s=99.6, data_wait=0.25)
    shown.close()
    assert log.messages == ["epoch 2/4   50%  training loss 2.000  lr 1.00e-03  100 img/s  data wait 25 %  left 02:00"]


def test_the_first_update_cannot_tell_the_time_left(clock, log):
    shown = Progress(4, 100, shown=True)
    clock.now += 30
    shown.show(0, 0.0, 2.0, 1e-3)
    shown.close()
    assert log.messages == ["epoch 1/4    0%  training loss 2.000  lr 1.00e-03"]


def test_the_bar_runs_over_the_whole_run(monkeypatch, log):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    shown = Progress(4, 100, shown=True, done_epochs=2)
    time.sleep(0.15)  # tqdm redraws every 0.1 s
    shown.advance(100)
    shown.show(2, 1.0, 2.0, 1e-3, img_per_s=50.0, data_wait=0.5)
    shown.close()
    drawn = terminal.getvalue()
    # The share is the run's, not the epoch's, and says so.
    assert "run  50%|" in drawn
    assert "epoch 3/4: run  75%|" in drawn
    assert "loss 2.000  lr 1.00e-03  50 img/s  data wait 50 %" in drawn
    assert log.messages == []


def test_other_ranks_show_nothing(monkeypatch, clock, log):
    monkeypatch.setattr(sys, "stderr", Terminal())
    shown = Progress(4, 100, shown=False)
    clock.now += 60
    shown.advance(100)
    shown.show(0, 0.5, 2.0, 1e-3)
    shown.epoch_done(TRAINED)
    shown.close()
    assert sys.stderr.getvalue() == ""
    assert log.messages == []


def test_table():
    assert table([("a", "1"), ("long", "2")]) == "  a     1\n  long  2"


# Curves


def colors(path):
    with Image.open(path) as image:
        return set(image.convert("RGB").get_flattened_data())


def run_of(epochs):
    for epoch in range(epochs):
        row = {"epoch": epoch, "train_loss": 3 - epoch / epochs, "lr": 1e-3 * 0.9**epoch}
        yield row | ({"eval_top1": 10.0 + epoch, "eval_loss": 2.0} if epoch % 3 == 0 else {})


ORANGE, BLUE, GREEN = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2), (0x00, 0x9E, 0x73)


@pytest.mark.parametrize("epochs", [1, 3, 300])
def test_curves_of_any_length(tmp_path, epochs):
    path = tmp_path / "curves.png"
    assert draw_curves(list(run_of(epochs)), path)
    assert {ORANGE, BLUE} <= colors(path)
    assert GREEN not in colors(path)
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


def drawn_axes(rows, path, monkeypatch):
    """The axes of the figure that is saved."""
    kept = []
    save = FigureCanvasAgg.print_png
    monkeypatch.setattr(
        FigureCanvasAgg, "print_png", lambda self, path: (kept.extend(self.figure.axes), save(self, path))[1]
    )
    assert draw_curves(rows, path)
    return kept


def test_each_part_of_the_loss_has_its_curve(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    rows = [row | {"train_classification": 1.0, "train_fine_grained": 2.0} for row in run_of(4)]
    axes = drawn_axes(rows, path, monkeypatch)
    assert {BLUE, GREEN, (0x56, 0xB4, 0xE9)} <= colors(path)
    # Why they do not add up is said.
    assert axes[0].get_title() == "Loss  (*: of the batches that have it)"
    assert "training: fine-grained*" in axes[0].get_legend_handles_labels()[1]


def test_the_last_learning_rate_does_not_stretch_the_axis(tmp_path, monkeypatch):
    rates = [1e-6, 1e-3, 8e-4, 1e-4, 1e-5, 1e-11]
    rows = [{"epoch": epoch, "lr": lr} for epoch, lr in enumerate(rates)]
    low, high = drawn_axes(rows, tmp_path / "curves.png", monkeypatch)[2].get_ylim()
    assert (low, high) == pytest.approx((5e-7, 2e-3))


def test_values_that_are_not_finite_or_missing_are_passed_over(tmp_path):
    rows = list(run_of(6))
    for row, value in zip(rows, (math.nan, math.inf, -math.inf, 1e300, None, 1.0), strict=True):
        row.update(train_loss=value, eval_top1=value, lr=value)
    assert draw_curves(rows, tmp_path / "curves.png")
    assert BLUE in colors(tmp_path / "curves.png")


def test_a_rate_of_zero_on_a_logarithmic_axis(tmp_path):
    rows = [{"epoch": epoch, "lr": lr} for epoch, lr in enumerate((0.0, 1e-6, 1e-3, 0.0))]
    assert draw_curves(rows, tmp_path / "curves.png")


@pytest.mark.parametrize("rows", [[], [{"epoch": 0}], [{"epoch": 0, "train_loss": math.nan, "seconds": 3.0}]])
def test_nothing_to_draw(tmp_path, rows):
    assert not draw_curves(rows, tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_drawing_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg.print_png", fail)
    with pytest.raises(OSError, match="disk full"):
        draw_curves(list(run_of(2)), path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.parametrize(("between_s", "drawn"), [(3600.0, [3]), (0.0, [1, 2, 3])])
def test_short_epochs_do_not_wait_for_drawings(train, tmp_path, monkeypatch, between_s, drawn):
    """However short, all epochs are in the curves in the end."""
    seen = []
    monkeypatch.setattr("dali_mix.train.output.folder._REDRAW_S", between_s)
    monkeypatch.setattr("dali_mix.train.output.folder.draw_curves", lambda rows, path: seen.append(len(rows)))
    code, _, err = train("--epochs", 3)
    assert code == 0, err
    assert seen == drawn


# Trackers


def events(folder):
    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return accumulator


def test_tensorboard_reads_back_what_was_added(tmp_path):
    trackers = Trackers(tmp_path, {"model": "vit", "lr": 0.1}, wandb=None)
    for step, row in enumerate((TRAINED, EVALUATED | {"eval_ema_top5": None})):
        trackers.add(row, step)
    # Already before close: somebody may be looking on.
    assert len(events(tmp_path).Scalars("train/loss")) == 2
    trackers.close()
    trackers.close()
    found = events(tmp_path)
    expected = {
        "epoch": [(0, 0.0), (1, 1.0)],
        "train/loss": [(0, 2.5), (1, 2.5)],
        "lr": [(0, 1e-3), (1, 1e-3)],
        "img_per_s": [(0, 1234.4), (1, 1234.4)],
        "data_wait": [(0, 0.031), (1, 0.031)],
        "eval/loss": [(1, 1.5)],
        "eval/top1": [(1, 70.125)],
        "eval/top5": [(1, 90.0)],
        "eval_ema/top1": [(1, 71.0)],
    }
    assert set(found.Tags()["scalars"]) == set(expected)
    for name, points in expected.items():
        read_back = [(event.step, event.value) for event in found.Scalars(name)]
        assert read_back == [(step, pytest.approx(value)) for step, value in points]
    (settings,) = found.Tensors("settings/text_summary")
    assert b"    model: vit\n    lr: 0.1" in settings.tensor_proto.string_val[0]


def test_without_tensorboard_one_warning(tmp_path, monkeypatch, log):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    trackers = Trackers(tmp_path, {}, wandb=None)
    trackers.add(TRAINED, 0)
    trackers.add(EVALUATED, 1)
    trackers.close()
    (line,) = log.messages
    assert line.startswith("no TensorBoard events: ")
    assert "torch.utils.tensorboard" in line


@pytest.mark.parametrize("module", [None, types.ModuleType("wandb")], ids=["missing", "an empty namespace"])
def test_without_wandb_the_command_that_installs_it(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(ConfigError, match=r"^--log-wandb needs the package wandb: pip install wandb$"):
        Trackers(tmp_path, {}, wandb=WandbOptions())
    assert list(tmp_path.iterdir()) == []


def test_a_wandb_that_does_not_start_is_one_line(tmp_path, monkeypatch):
    def init(**_):
        raise RuntimeError("api_key not configured\nrun wandb login")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with pytest.raises(ConfigError, match=r"^--log-wandb: api_key not configured$"):
        Trackers(tmp_path, {}, wandb=WandbOptions())


@pytest.mark.parametrize(("resume_id", "resume"), [(None, None), ("abc", "must")])
def test_calls_of_wandb(tmp_path, monkeypatch, resume_id, resume):
    """Against a stand-in: it shows which calls are made, not that Weights & Biases takes them."""
    calls = []
    run = types.SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("finish")
    )

    def init(**options):
        calls.append(options)
        return run

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    options = WandbOptions(project="imagenet", tags=("a", "b"), resume_id=resume_id, name="first")
    trackers = Trackers(tmp_path, {"lr": 0.1}, wandb=options)
    trackers.add({"epoch": 4, "train_loss": 2.0, "eval_top1": None}, 4)
    trackers.close()
    trackers.close()
    assert calls == [
        {
            "project": "imagenet",
            "name": "first",
            "tags": ["a", "b"],
            "id": resume_id,
            "resume": resume,
            "config": {"lr": 0.1},
            "dir": str(tmp_path),
        },
        (4, {"epoch": 4.0, "train/loss": 2.0}),
        "finish",
    ]
