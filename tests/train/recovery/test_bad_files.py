"""Files that cannot be decoded: the run goes on, names them once, and stops when there are too many."""

import os
import re
import shutil

import pytest

from dali_mix.data import BadImage, ImageFolder
from dali_mix.errors import ConfigError
from dali_mix.train import run as run_module
from dali_mix.train.bad_files import BadFiles
from dali_mix.train.checkpoint.store import Position
from dali_mix.train.training import TrainingRun
from tests.hostile import KINDS, ONLY_SOME_CROPS, REPLACED, spoil_listed, write_hostile
from tests.ranks import run_ranks
from tests.train.conftest import FAST
from tests.train.recovery.runs import RICH, assert_same_result, cut_off
from tests.train.test_run import ENTRY


@pytest.fixture
def data(tmp_path, image_folder):
    return shutil.copytree(image_folder, tmp_path / "data")


def spoil(data, split, number, count=1):
    """Truncate the ``number``-th image of a split, or some from there on."""
    files = sorted((data / split).glob("*/*.jpg"))[number : number + count]
    for file in files:
        file.write_bytes(file.read_bytes()[:300])
    return files


def listed(folder):
    return (folder / "bad_files.txt").read_text().splitlines()


def test_one_bad_file_never_stops_a_run(train, data, tmp_path):
    (bad,) = spoil(data, "train", 20)
    code, out, err = train("--experiment", "run", "--smmix", "--mixup", 0.8, data=data)
    assert code == 0, err
    assert re.search(r"bad images +1 replaced, see \S+/run/bad_files.txt", out)
    assert err.count(f"{bad} is replaced: ") == 1
    assert listed(tmp_path / "run") == [str(bad)]
    # The list is one that leaves them out.
    code, _, err = train("--exclude-list", tmp_path / "run" / "bad_files.txt", data=data)
    assert code == 0
    assert "is replaced" not in err


def test_a_name_that_forges_lines(train, data, tmp_path):
    """Written as it is, it would exclude a good image, and be an epoch of the log; the other would clear the screen."""
    folder = data / "train" / "apple_dots"
    good = next(folder.glob("*.jpg"))
    cleared = folder / "x\x1b[2J\u202e.jpg"
    forged = folder / f"x\n{good}\nepoch 9  top-1 100.00 %.jpg"
    for path in (cleared, forged):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(good.read_bytes()[:300])
    code, out, err = train("--experiment", "run", "--epochs", 1, "--max-bad-fraction", 0.1, data=data)
    assert code == 0, err
    assert not re.search(r"\x1b\[2J|\u202e|^epoch 9", out + err, re.MULTILINE)  # the decoders' own colors are no names
    shown = str(forged).replace("\n", "\\n")
    assert f"{shown} is replaced: " in err
    assert f"{shown} is not in {tmp_path}/run/bad_files.txt, as its name is no line of text" in err
    assert re.search(r"bad images +2 replaced, see ", out)
    assert listed(tmp_path / "run") == [str(cleared)]


def test_too_many_stop_the_run_with_the_list(train, data, tmp_path):
    bad = spoil(data, "train", 0, 12)
    code, _, err = train("--experiment", "run", data=data)
    assert code == 2
    (last,) = [line for line in err.splitlines() if "error" in line]
    count, shown = re.search(r"error: (\d+) of 70 images in .* cannot be used, more than --max-bad-fraction 0.001 "
                             r"allows: (.*); all are in ", last).groups()  # fmt: skip
    assert int(count) == 2 == len(shown.split(", ")) == len(listed(tmp_path / "run"))
    assert set(shown.split(", ")) <= set(map(str, bad))
    code, _, err = train("--max-bad-fraction", 0.2, "--experiment", "more", data=data)
    assert code == 0, err
    assert sorted(listed(tmp_path / "more")) == sorted(map(str, bad))


def test_an_error_can_be_asked_for(train, data):
    (bad,) = spoil(data, "train", 3)
    code, _, err = train("--on-bad-image", "error", data=data)
    assert code == 2
    assert re.search(rf"error: {re.escape(str(bad))}: .+ \(--on-bad-image error\); repair or remove it", err)
    assert "Traceback" not in err


def test_a_bad_validation_image_does_not_count(train, data, tmp_path):
    (bad,) = spoil(data, "val", 29)
    code, _, err = train("--experiment", "run", data=data)
    assert code == 0, err
    assert err.count(f"{bad} is replaced") == 1
    weights = tmp_path / "run" / "model.safetensors"
    code, without, _ = train("--eval-only", "--initial-checkpoint", weights, data=data)
    assert code == 0
    assert re.search(r"images +29\n", without)
    (tmp_path / "list.txt").write_text(f"{bad}\n")
    _, excluded, _ = train(
        "--eval-only", "--initial-checkpoint", weights, "--exclude-list", tmp_path / "list.txt", data=data
    )
    assert without == excluded


def test_a_run_with_bad_files_continues_exactly(train, data, tmp_path):
    """Before and after the files are met; each is met once, and reported once in each run."""
    bad = spoil(data, "train", 0, 3)
    flags = [*RICH, "--max-bad-fraction", 0.1]
    code, _, err = train(*flags, "--experiment", "whole", data=data)
    assert code == 0, err
    assert err.count("is replaced") == 3
    for position in (Position(0, 3), Position(1, 2)):
        run = tmp_path / f"run-at-{position.epoch}-{position.batch}"
        cut_off(tmp_path / "whole", run, position)
        code, _, err = train(*flags, "--experiment", run.name, "--auto-resume", data=data)
        assert code == 0, err
        assert "is replaced" not in err  # bad_files.txt of the run names them already
        assert sorted(listed(run)) == sorted(map(str, bad))
        assert_same_result(run, tmp_path / "whole")


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_kind_of_hostile_file_trains_to_the_end(train, data, tmp_path, monkeypatch, split):
    paths = write_hostile(data / split / "apple_dots")
    original = run_module.open_data

    def open_data(*args):
        opened = original(*args)
        spoil_listed(paths)  # files that vanish or change once they are listed
        return opened

    monkeypatch.setattr(run_module, "open_data", open_data)
    flags = ["--experiment", "run", "--cutmix", 1, "--max-bad-fraction", 0.9, "--epochs", 3, "--smmix"]
    code, _, err = train(*flags, data=data)
    assert code == 0, err
    assert "Traceback" not in err
    replaced = {str(paths[kind]) for kind in paths if KINDS[kind].outcome == REPLACED}
    always = replaced - {str(paths[kind]) for kind in ONLY_SOME_CROPS if split == "train"}
    assert always <= set(listed(tmp_path / "run")) <= replaced
    assert len(always) >= 20


@pytest.mark.distributed
def test_two_ranks_name_a_file_once(tmp_path, data):
    bad = spoil(data, "train", 0, 6)
    flags = [*FAST, "-b", 5, "--epochs", 4, "--data-dir", data, "--output", tmp_path, "--experiment", "run"]
    result = run_ranks(ENTRY, *flags, "--max-bad-fraction", 0.2, ranks=2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for file in bad:
        assert result.stderr.count(f"{file} is replaced: ") == 1
    assert sorted(listed(tmp_path / "run")) == sorted(map(str, bad))


def test_a_data_set_that_changes_is_noticed_at_the_next_epoch(train, data, tmp_path, monkeypatch):
    original = TrainingRun._one_epoch

    def one_epoch(self, epoch, *args):
        if epoch == 1:
            next((data / "train").glob("*/*.jpg")).unlink()
        return original(self, epoch, *args)

    monkeypatch.setattr(TrainingRun, "_one_epoch", one_epoch)
    code, _, err = train("--experiment", "run", "--epochs", 3, data=data)
    assert code == 0, err
    assert err.count("has changed since the run began: 1 file is gone") == 1
    assert "epoch 2: " in err
    assert len(listed(tmp_path / "run")) == 1


def test_a_name_that_is_no_text_is_listed_all_the_same(tmp_path):
    """Linux takes any bytes for a name; writing such a one must not end a run."""
    folder = ImageFolder(tmp_path, ("a",) * 10, (0,) * 10, ("a",))
    bad_files = BadFiles("replace", 1.0)
    report = bad_files.reporter(folder)
    bad_files.write_to(tmp_path / "bad_files.txt")
    path = os.fsdecode(os.fsencode(tmp_path) + b"/a/caf\xe9.jpg")
    report(BadImage(path, "truncated"))
    assert (tmp_path / "bad_files.txt").read_bytes() == os.fsencode(path) + b"\n"
    again = BadFiles("replace", 1.0)
    again.write_to(tmp_path / "bad_files.txt")
    again.add([BadImage(path, "truncated")])
    assert (tmp_path / "bad_files.txt").read_bytes().count(b"\n") == 1


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: os.mkfifo(path), "is no regular file, remove it"),
        (lambda path: path.symlink_to("other.txt"), "is a link, remove it"),
    ],
    ids=["folder", "FIFO", "link"],
)
def test_what_stands_in_the_place_of_the_list_is_refused_and_not_read(tmp_path, plant, message):
    """A FIFO would be waited for; what a link leads to would count as told already."""
    (tmp_path / "other.txt").write_text("/data/train/a/1.jpg\n")
    plant(tmp_path / "bad_files.txt")
    bad_files = BadFiles("replace", 1.0)
    with pytest.raises(ConfigError, match=message):
        bad_files.write_to(tmp_path / "bad_files.txt")
    assert bad_files.count == 0
