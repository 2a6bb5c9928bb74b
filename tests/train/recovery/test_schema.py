"""Checkpoints whose sums are right and whose fields are not: one line, exit code 2, and nothing is lost."""

import copy
import hashlib
import json
import re
import shutil

import pytest
import safetensors.torch
import torch

from dali_mix.train import main
from dali_mix.train.checkpoint.schema import SchemaError, check_rank, check_run, check_shared
from dali_mix.train.checkpoint.state import check
from dali_mix.train.checkpoint.store import CheckpointError
from tests.train.conftest import FAST
from train_imagenet import PIPELINES

FLAGS = ["--experiment", "run", "--checkpoint-steps", "3", "--model-ema"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, image_folder):
    """A run of two epochs, with checkpoints within them."""
    output = tmp_path_factory.mktemp("fields")
    assert main(PIPELINES, [*FAST, *FLAGS, "--output", str(output), "--data-dir", str(image_folder)]) == 0
    return output / "run"


@pytest.fixture(scope="module")
def content(run):
    """What the files of a checkpoint within the second epoch hold."""
    path = max(path for path in (run / "checkpoints").glob("checkpoint-1-*"))
    return {name: torch.load(path / name, weights_only=True) for name in ("run.pt", "state.pt", "rank-0.pt")}


def changed(content, keys, value):
    """A copy in which what the keys lead to is another value; with ``LACKING`` it is not there."""
    content = copy.deepcopy(content)
    place = content
    for key in keys[:-1]:
        place = place[key]
    if value is LACKING:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return content


LACKING = object()
HUGE = 10**30
ROW = {"epoch": 0, "seconds": 1.0}
FACTS = [
    *(
        (["position"], value)
        for value in ([-5, -1], "ab", [1], [1.0, 0], [True, 0], [HUGE, 0], [0, 10**9], [None, 0], {}, None, LACKING)
    ),
    *((["rows"], value) for value in ("abc", [1], [{"epoch": 0}], [ROW | {"unknown": 1.0}], [ROW | {"lr": "x"}],
                                      [ROW | {"lr": torch.ones(1)}], [ROW] * 3, [{1: 2}], None, LACKING)),
    *((["fingerprint"], value) for value in ([], None, {}, {"ranks": 0}, {"ranks": HUGE}, {1: 2, "ranks": 1}, LACKING)),
    (["fingerprint", "lr"], torch.ones(3)),
    (["fingerprint", "model_kwargs"], {"a": b"x"}),
    *((["computed_by"], value) for value in (None, [], {"torch": None}, {1: "x"}, LACKING)),
    *((["batches"], value) for value in (0, "7", -7, 3, None, LACKING)),
    *((["launcher"], value) for value in (None, 3, LACKING)),
    (["skipped"], "3"),
]  # fmt: skip
SHARED = [
    *((["updates"], value) for value in ("9", -1, 9.0, True, HUGE, None, LACKING)),
    (["skipped"], "0"),
    *((["optimizer"], value) for value in ("x", None, [], {}, {"state": {}}, LACKING)),
    (["optimizer", "state"], [1]),
    (["optimizer", "state", 0], "x"),
    (["optimizer", "state", 0, "exp_avg"], [[[torch.ones(1)]]]),
    (["optimizer", "state", 0, "exp_avg"], torch.ones(1, dtype=torch.complex64)),
    (["optimizer", "param_groups"], {}),
    (["optimizer", "param_groups", 0], 3),
    (["optimizer", "param_groups", 0, "params"], "abc"),
    (["optimizer", "param_groups", 0, "params"], [True]),
    *((["scheduler"], value) for value in (None, 5, {1: 2}, {"a": b"x"}, {"a": torch.ones(1)}, LACKING)),
    *((["scaler"], value) for value in (None, "x", {"scale": "1"}, LACKING)),
    *((["methods"], value) for value in ("x", {"a": None}, {"a": {"weight": 3}}, {1: {}}, LACKING)),
]
OWN = [
    *((["loader"], value) for value in (None, [], {}, LACKING)),
    *((["loader", "delivered"], value) for value in (-1, "3", 10**6, True, LACKING)),
    *((["loader", "pipeline"], value) for value in ("text", None, [1], LACKING)),
    *((["loader", "fingerprint"], value) for value in (None, {}, {"num_samples": 0, "batch_size": 1}, LACKING)),
    (["loader", "fingerprint", "dataset"], b"x"),
    *((["loader", "look_ahead"], value) for value in (None, [1], [-1, 2], ["a", 2])),
    *((["loader", "stand_ins"], value) for value in (None, "x", [[1, 2]], [[-1, 0, "x"]], [[0, 10**6, "x"]],
                                                     [[0, 1, None]], [[True, 1, "x"]])),
    *((["tally"], value) for value in (None, [], {}, LACKING)),
    *((["tally", "batches"], value) for value in (-1, "3", 4, None, LACKING)),
    (["tally", "earlier"], -1.0),
    (["tally", "earlier"], "x"),
    (["tally", "waited"], HUGE),
    (["tally", "closed"], 1),
    *((["tally", "losses"], value) for value in (None, [0.0] * 4, {"loss": 1.0}, {"loss": [1.0]}, {1: [1.0, 1]},
                                                 {"loss": [1.0, -1]}, {"loss": [torch.ones(1), 1]}, LACKING)),
    *((["rng"], value) for value in (None, {}, LACKING)),
    *((["rng", "python"], value) for value in (None, [3], [3, [1] * 624, None], [3, [-1] * 625, None],
                                               [3, "x" * 625, 0])),
    *((["rng", "numpy"], value) for value in (None, ["MT19937"], ["MT19937", [1] * 624, 625, 0, 0.0],
                                              ["MT19937", [2**32] * 624, 0, 0, 0.0])),
    *((["rng", "torch"], value) for value in (None, torch.zeros(9, dtype=torch.uint8), torch.zeros(5056))),
    (["rng", "cuda"], "x"),
]  # fmt: skip


def named(cases):
    return [
        pytest.param(keys, value, id=f"{' '.join(map(str, keys))} {index}") for index, (keys, value) in enumerate(cases)
    ]


def refused(check_content, *content):
    with pytest.raises(SchemaError) as error:
        check_content(*content)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(("keys", "value"), named(FACTS))
def test_the_record(content, keys, value):
    refused(check_run, changed(content["run.pt"], keys, value))


@pytest.mark.parametrize(("keys", "value"), named(SHARED))
def test_shared_state(content, keys, value):
    refused(check_shared, changed(content["state.pt"], keys, value))


@pytest.mark.parametrize(("keys", "value"), named(OWN))
def test_a_ranks_state(content, keys, value):
    refused(check_rank, changed(content["rank-0.pt"], keys, value), content["run.pt"])


def test_what_is_written_passes(run):
    paths = list((run / "checkpoints").glob("checkpoint-*"))
    assert len(paths) > 3
    for path in paths:
        check(path)


def patched(run, tmp_path, file, change):
    """A copy of a run whose newest checkpoint has another file, with right sums."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "checkpoint-2-0")
    path = max((tmp_path / "run" / "checkpoints").glob("checkpoint-1-*"))
    place = path / file
    if place.suffix == ".pt":
        torch.save(change(torch.load(place, weights_only=True)), place)
    else:
        safetensors.torch.save_file(change(safetensors.torch.load_file(place)), place)
    sums = json.loads((path / "checksums.json").read_text())
    data = place.read_bytes()
    sums["files"][file] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "checksums.json").write_text(json.dumps(sums))
    return path


RUNS = {
    "exp_avg of another shape": (
        "state.pt",
        (["optimizer", "state", 1, "exp_avg"], torch.ones(3)),
        "exp_avg of weight 1",
    ),
    "no exp_avg": ("state.pt", (["optimizer", "state", 1, "exp_avg"], LACKING), "weight 1 has no exp_avg"),
    "another weight": ("state.pt", (["optimizer", "state", 10**6], {}), "entries of weight 1000000"),
    "fewer groups": ("state.pt", (["optimizer", "param_groups", 1], LACKING), "here are .* in 2 groups"),
    "a schedule that is none": ("state.pt", (["scheduler"], {"step_update": 5}), "its schedule is not that"),
    "junk for a pipeline": ("rank-0.pt", (["loader", "pipeline"], b"junk" * 9), "cannot be continued"),
    "weights that are not finite": (
        "model.safetensors",
        (["norm.bias"], torch.full((16,), torch.nan)),
        "is not finite",
    ),
    "weights of another model": ("model.safetensors", (["norm.bias"], torch.ones(8)), "does not fit the model"),
    "an average that lacks a weight": ("model_ema.safetensors", (["norm.bias"], LACKING), "does not fit the model"),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_only_shows_when_it_is_loaded(train, run, tmp_path, name):
    file, (keys, value), message = RUNS[name]
    path = patched(run, tmp_path, file, lambda content: changed(content, keys, value))
    code, _, err = train(*FLAGS, "--auto-resume")
    error = err.splitlines()[-1]
    assert code == 2, err
    assert error.startswith(f"train_imagenet.py: error: {path} cannot be continued")
    assert "Traceback" not in err
    assert re.search(message, error), error
    assert path.is_dir()


def test_a_field_that_is_seen_early_goes_back_to_the_checkpoint_before(train, run, tmp_path):
    path = patched(run, tmp_path, "run.pt", lambda facts: facts | {"position": [-5, -1]})
    with pytest.raises(CheckpointError, match=r"position\[0\] is -5, not an integer from 0"):
        check(path)
    code, _, err = train(*FLAGS, "--auto-resume")
    assert code == 0, err
    assert "position[0] is -5, not an integer from 0 to 1048576; going back to the one before" in err
    weights = [safetensors.torch.load_file(each / "model.safetensors") for each in (run, tmp_path / "run")]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_more_epochs_than_the_run_has(train, run, tmp_path):
    patched(run, tmp_path, "run.pt", lambda facts: facts | {"position": [10**5, facts["position"][1]]})
    code, _, err = train(*FLAGS, "--auto-resume")
    assert code == 2
    assert "claims 100000 epochs of 2; use another one" in err.splitlines()[-1]


def test_another_optimizer_begins_anew_where_that_is_allowed(train, run, tmp_path):
    code, _, err = train(*FLAGS, "--resume", run, "--resume-relaxed", "--opt", "rmsprop", "--epochs", 3)
    assert code == 0, err
    assert "the optimizer begins anew, as the checkpoint's is another one: weight 0 has no " in err
