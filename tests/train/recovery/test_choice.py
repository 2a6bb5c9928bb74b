"""Which run and which checkpoint is continued, and what is refused."""

import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch

from dali_mix.train.checkpoint.store import CheckpointStore, Position
from tests.train.recovery.runs import RICH, assert_same_result, cut_off, rows_of

NEWEST, BEFORE = "checkpoint-1-4", "checkpoint-1-3"


@pytest.fixture
def cut(whole, tmp_path):
    """A run that was killed in the middle of its second epoch."""
    cut_off(whole, tmp_path / "run", Position(1, 4))
    return tmp_path / "run"


@pytest.fixture
def resume(train):
    return lambda *flags: train(*RICH, "--experiment", "run", "--auto-resume", *flags)


def truncated(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def flipped(folder):
    content = bytearray((folder / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "state.pt").write_bytes(content)


def no_list(folder):
    (folder / "checksums.json").unlink()


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def malicious(folder):
    """What an attacker writes who knows the format: the sums are right."""
    forge(folder, "rank-0.pt", lambda file: torch.save({"rng": Payload(folder.parents[2] / "executed")}, file))


def malicious_bare_pickle(folder):
    forge(folder, "state.pt", lambda file: file.write_bytes(pickle.dumps(Payload(folder.parents[2] / "executed"))))


def malicious_archive(folder):
    """A member whose name leads out of the folder."""

    def write(file):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("../../../../executed/data.pkl", pickle.dumps(Payload(folder.parents[2] / "executed")))

    forge(folder, "state.pt", write)


def forge(folder, name, write):
    """Replace a file and let the list of sums agree."""
    write(folder / name)
    contents = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".json"}
    shutil.rmtree(folder)
    epoch, batch = map(int, folder.name.split("-")[1:])
    store = CheckpointStore(folder.parent, keep=1000)
    store.save(Position(epoch, batch), {name: (lambda data=data: data) for name, data in contents.items()})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncated, "is damaged: model.safetensors has"),
        (flipped, "is damaged: state.pt is not what was written"),
        (no_list, "is damaged: checksums.json cannot be read: No such file or directory"),
        (malicious, "is refused: rank-0.pt holds more than data"),
        (malicious_bare_pickle, "is refused: state.pt holds more than data"),
        (malicious_archive, "state.pt"),
    ],
)
def test_a_bad_checkpoint_is_named_and_the_one_before_is_used(resume, whole, cut, damage, reason):
    damage(cut / "checkpoints" / NEWEST)
    code, _, err = resume()
    assert code == 0, err
    assert f"{NEWEST} " in err
    assert reason in err
    assert f"{BEFORE} exactly" in err
    assert not (cut.parent / "executed").exists()
    assert (cut / "checkpoints" / f"damaged-{NEWEST}").is_dir()
    assert_same_result(cut, whole)


def test_without_a_good_checkpoint_nothing_is_begun(resume, cut):
    for path in CheckpointStore(cut / "checkpoints").all().values():
        truncated(path)
    code, _, err = resume()
    assert code == 2
    assert "run/checkpoints can be used; move the folder away to begin anew" in err
    assert len(list(cut.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (("-b", 14), "--batch-size was 10, is 14"),
        (("--seed", 1), "--seed was 42, is 1"),
        (("--lr", 0.5, "--smoothing", 0.2), "--lr was 0.001, is 0.5; --smoothing was 0.1, is 0.2"),
    ],
)
def test_other_settings_are_refused_with_every_difference(resume, cut, flags, difference):
    before = sorted(cut.rglob("*"))
    code, _, err = resume(*flags)
    assert code == 2
    assert f"{NEWEST} was made with other settings: " in err
    assert difference in err
    assert "or --resume-relaxed to go on from the beginning of its epoch" in err
    assert sorted(cut.rglob("*")) == before


def test_other_data_are_refused(train, cut, tmp_path, image_folder):
    shutil.copytree(image_folder, tmp_path / "data")
    next((tmp_path / "data" / "train").glob("*/*.jpg")).unlink()
    code, _, err = train(*RICH, "--experiment", "run", "--auto-resume", data=tmp_path / "data")
    assert code == 2
    assert "training images was 70, is 69; training data was '" in err


def test_what_changes_no_weight_may_change(resume, whole, cut, image_folder, tmp_path):
    (tmp_path / "elsewhere").symlink_to(image_folder)
    code, _, err = resume("-j", 1, "--log-interval", 1, "-vb", 7, "--checkpoint-steps", 5, "--checkpoint-hist", 2,
                          "--dali-prefetch", 3, "--data-dir", tmp_path / "elsewhere")  # fmt: skip
    assert code == 0, err
    own, other = rows_of(cut), rows_of(whole)
    assert [row["train_loss"] for row in own] == [row["train_loss"] for row in other]


def test_relaxed_goes_on_at_the_epoch_in_a_folder_of_its_own(resume, whole, cut):
    before = sorted(cut.rglob("*"))
    code, _, err = resume("--resume-relaxed", "-b", 14, "--lr", 0.002)
    assert code == 0, err
    assert "(--batch-size was 10, is 14; --lr was 0.001, is 0.002)" in err
    assert "epoch 2 begins anew, its 4 batches that are trained already are repeated" in err
    assert sorted(cut.rglob("*")) == before
    new = cut.with_name("run-1")
    rows = rows_of(new)
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert rows[0] == rows_of(cut)[0]
    assert float(rows[1]["lr"]) > 1.5 * float(rows_of(whole)[1]["lr"])
    assert not (new / "checkpoints" / "checkpoint-0-0").exists()
    # The same command goes on there, and now exactly.
    shutil.rmtree(new / "checkpoints" / "checkpoint-3-0")
    code, _, err = resume("--resume-relaxed", "-b", 14, "--lr", 0.002)
    assert code == 0, err
    assert "run-1/checkpoints/checkpoint-2-5 exactly" in err


def test_relaxed_with_the_same_settings_is_exact(resume, whole, cut):
    code, _, err = resume("--resume-relaxed")
    assert code == 0, err
    assert_same_result(cut, whole)


@pytest.mark.parametrize("what", ["run", "run/checkpoints", "run/checkpoints/checkpoint-1-4"])
def test_resume_takes_a_run_or_a_checkpoint_and_leaves_it_alone(train, whole, cut, what, tmp_path):
    before = sorted(cut.rglob("*"))
    code, _, err = train(*RICH, "--experiment", "again", "--resume", tmp_path / what)
    assert code == 0, err
    assert f"{NEWEST} exactly" in err
    assert sorted(cut.rglob("*")) == before
    assert_same_result(tmp_path / "again", whole)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("run/checkpoints/checkpoint-0-9", "is not a folder; give a run's, or one of its checkpoints"),
        ("run/summary.csv", "is not a folder; give a run's, or one of its checkpoints; for weights alone use"),
        ("run/tensorboard", "checksums.json cannot be read"),
        ("run/checkpoints/checkpoint-1-4", "model.safetensors has"),
    ],
)
def test_resume_refuses_what_is_no_good_checkpoint(train, cut, path, message, tmp_path):
    truncated(cut / "checkpoints" / NEWEST)
    code, _, err = train(*RICH, "--resume", tmp_path / path)
    assert code == 2
    assert message in err
    assert err.count("\n") == 3  # behind the two that count the images


def test_without_a_name_the_run_with_these_settings_is_found(train, tmp_path):
    """Not the newest one, if that has others."""
    flags = ["--cutmix", 1, "--epochs", 2]
    assert train(*flags)[0] == 0
    (first,) = tmp_path.iterdir()
    shutil.rmtree(first / "checkpoints" / "checkpoint-2-0")
    os.rename(first, tmp_path / first.name.replace("20", "19", 1))
    assert train(*flags, "--lr", 0.01)[0] == 0
    code, _, err = train(*flags, "--auto-resume")
    assert code == 0
    assert "19" in err.split("continuing ")[1].split("checkpoints")[0]
    assert "checkpoint-1-0 exactly" in err
    assert len(list(tmp_path.iterdir())) == 2
    code, _, err = train(*flags, "--auto-resume", "--lr", 0.02)
    assert code == 0
    assert "--auto-resume: nothing to continue (the newest run differs, " in err
    assert len(list(tmp_path.iterdir())) == 3


def test_a_complete_run_is_not_trained_again(resume, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    code, out, err = resume()
    assert code == 0
    assert "best EMA top-1" in out
    assert "epoch" not in err.split("images per update")[1]
    assert_same_result(tmp_path / "run", whole)


def test_a_run_that_was_killed_before_its_first_checkpoint_is_begun_again(resume, cut):
    shutil.rmtree(cut / "checkpoints")
    (cut / "checkpoints" / ".checkpoint-0-0.tmp").mkdir(parents=True)
    code, _, err = resume()
    assert code == 0, err
    assert [path.name for path in cut.parent.iterdir()] == ["run"]


def test_a_newer_run_that_never_began_does_not_hide_one_with_checkpoints(resume, whole, cut):
    empty = cut.with_name("run-1")
    empty.mkdir()
    shutil.copy(cut / "args.yaml", empty)
    code, _, err = resume()
    assert code == 0, err
    assert f"{NEWEST} exactly" in err
    assert_same_result(cut, whole)


def test_resume_counts_where_there_is_nothing_to_auto_resume(train, whole, cut, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "args.yaml").write_text("experiment: new\n")
    code, _, err = train(*RICH, "--experiment", "new", "--resume", cut, "--auto-resume")
    assert code == 0, err
    assert f"{NEWEST} exactly" in err
    assert_same_result(tmp_path / "new-1", whole)


def test_a_run_of_another_name_that_looks_alike_is_left_alone(train, tmp_path):
    for name in ("vit", "vit-2"):
        assert train("--experiment", name, "--cutmix", 1, "--epochs", 1)[0] == 0
    shutil.rmtree(tmp_path / "vit-2" / "checkpoints")
    before = sorted((tmp_path / "vit-2").rglob("*"))
    code, _, err = train("--experiment", "vit", "--cutmix", 1, "--epochs", 1, "--auto-resume")
    assert code == 0, err
    assert "vit/checkpoints/checkpoint-1-0 exactly" in err
    assert sorted((tmp_path / "vit-2").rglob("*")) == before


def test_a_name_may_lie_in_a_folder(train, tmp_path):
    flags = ["--experiment", "sweep/a", "--cutmix", 1, "--epochs", 2]
    assert train(*flags)[0] == 0
    shutil.rmtree(tmp_path / "sweep" / "a" / "checkpoints" / "checkpoint-2-0")
    code, _, err = train(*flags, "--auto-resume")
    assert code == 0, err
    assert "sweep/a/checkpoints/checkpoint-1-0 exactly" in err


def test_a_run_goes_on_from_its_own_settings_file(train, whole, cut):
    code, _, err = train("--config", cut / "args.yaml", "--auto-resume", defaults=[])
    assert code == 0, err
    assert_same_result(cut, whole)


def test_a_damaged_run_of_other_settings_is_no_obstacle(train, tmp_path):
    flags = ["--cutmix", 1, "--epochs", 1]
    assert train(*flags)[0] == 0
    (first,) = tmp_path.iterdir()
    os.rename(first, tmp_path / first.name.replace("20", "19", 1))
    assert train(*flags, "--lr", 0.01)[0] == 0
    (second,) = tmp_path.glob("20*")
    for path in CheckpointStore(second / "checkpoints").all().values():
        truncated(path)
    code, _, err = train(*flags, "--auto-resume")
    assert code == 0, err
    assert "checkpoint-1-0 exactly" in err


def test_a_folder_that_another_process_writes_to_is_refused(resume, cut, monkeypatch):
    monkeypatch.setattr("dali_mix.train.run_folder._WAIT_S", 0.5)
    script = (
        "import fcntl, sys; file = open(sys.argv[1], 'a+'); fcntl.flock(file, 2); print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(cut / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        code, _, err = resume()
        other.kill()
    assert code == 2
    assert re.search(rf"{re.escape(str(cut))} is in use by (another )?process.*; wait for it or end it", err)
    assert resume()[0] == 0


def test_the_best_epoch_of_a_later_time_is_not_taken_over(train, tmp_path):
    flags = ["--cutmix", 1, "--epochs", 3, "--lr", 0.02, "--seed", 1]
    assert train(*flags, "--experiment", "run")[0] == 0
    rows = rows_of(tmp_path / "run")
    best = max(range(3), key=lambda epoch: float(rows[epoch]["eval_top1"]))
    assert best > 0  # of the checkpoint after the first epoch it knows nothing
    code, out, err = train(*flags, "--experiment", "again", "--resume", tmp_path / "run/checkpoints/checkpoint-1-0",
                           "--resume-relaxed", "--seed", 2, "--lr", 0)  # fmt: skip
    assert code == 0, err
    file = tmp_path / "again" / "model_best.safetensors"
    assert file.exists() == ("model_best.safetensors" in out)
    assert not file.exists() or file.read_bytes() != (tmp_path / "run" / "model_best.safetensors").read_bytes()


def test_relaxed_at_the_end_of_a_run_has_nothing_to_do(train, cut):
    shutil.rmtree(cut / "checkpoints" / NEWEST)
    code, _, err = train(*RICH, "--resume", cut, "--resume-relaxed", "--epochs", 1, "--mixup-off-epoch", 0)
    assert code == 2
    assert "is at the end of epoch 1, and --epochs 1 leaves nothing to train" in err


def test_relaxed_keeps_the_step_count_that_an_optimizer_keeps_with_its_settings(train, tmp_path):
    flags = ["--cutmix", 1, "--epochs", 2, "--opt", "lamb"]
    assert train(*flags, "--experiment", "run")[0] == 0
    code, _, err = train(*flags, "--experiment", "new", "--resume", tmp_path / "run/checkpoints/checkpoint-1-0",
                         "--resume-relaxed", "--lr", 0.002)  # fmt: skip
    assert code == 0, err
    state = torch.load(tmp_path / "new/checkpoints/checkpoint-2-0/state.pt", weights_only=True)["optimizer"]
    assert {int(group["step"]) for group in state["param_groups"]} == {14}
    assert {group["initial_lr"] for group in state["param_groups"]} == {0.002}
