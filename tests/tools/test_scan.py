import json
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from PIL import Image

from dali_mix.data import scan_image_folder
from dali_mix.tools import scan
from dali_mix.tools.scan import main
from dali_mix.train.data import open_data
from dali_mix.train.distributed import World
from dali_mix.train.settings import parse_args


def picture(path, size=(64, 48), color=0, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.effect_noise(size, 50 + color).convert(mode)
    image.save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    """A data directory with one of everything that the report speaks of."""
    root = tmp_path / "data"
    for number in range(3):
        picture(root / f"train/cat/{number}.jpg", color=number)
    picture(root / "train/dog/gray.JPEG", mode="L", size=(300, 200))
    picture(root / "train/dog/tiny.png", size=(20, 90))
    picture(root / "train/dog/is a png.jpg", format="PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(root / "train/dog/turned.jpg", exif=exif)
    (root / "train/empty").mkdir()
    picture(root / "val/cat/0.jpg", color=7)
    shutil.copy(root / "train/cat/0.jpg", root / "train/cat/again.jpg")
    shutil.copy(root / "train/cat/1.jpg", root / "train/dog/wrong.jpg")
    shutil.copy(root / "train/cat/2.jpg", root / "val/cat/leak.jpg")
    cut = (root / "train/dog/turned.jpg").read_bytes()[:-50]
    for number in range(6):
        (root / f"train/cat/cut{number}.jpg").write_bytes(cut)
    (root / "val/cat/page.jpg").write_bytes(b"<!DOCTYPE html>")
    (root / "train/cat/notes.txt").write_text("not an image")
    (root / "train/cat/up").symlink_to(root / "train/cat")
    (root / "test").mkdir()
    return root


REPORT = """\
train       15 images in 3 classes; smallest empty 0, median 5, largest cat 10
            1 class folder(s) without an image, which training refuses: empty
val         3 images in 1 classes; smallest cat 3, median 3, largest cat 3
            2 class(es) of train not in val: dog, empty
Undecodable 7 of 18
         6  truncated JPEG
            train/cat/cut0.jpg
            train/cat/cut1.jpg
            train/cat/cut2.jpg
            ... and 3 more
         1  not an image DALI can decode
            val/cat/page.jpg (it begins with '<!DOCTYPE ht')
Formats     JPEG RGB 8, PNG RGB 2, JPEG L 1
Width       min 20, median 64, max 300 px
Height      min 48, median 48, max 200 px
Largest     0.1 megapixels, train/dog/gray.JPEG
Small       1 with a side under 32 px
Rotated     1 by EXIF, which training ignores, as torchvision does
            train/dog/turned.jpg
Extension   1 of another format than the extension says
            train/dog/is a png.jpg is PNG
Duplicates  2 image(s) of train repeat another one, byte for byte
            train/cat/0.jpg = train/cat/again.jpg
            train/cat/1.jpg = train/dog/wrong.jpg
LEAK        1 image(s) of val are also in train
            train/cat/2.jpg = val/cat/leak.jpg
Labels      1 image(s) stand in more than one class
            train/cat/1.jpg = train/dog/wrong.jpg
Left out    of train: 1 file with another extension (train/cat/notes.txt)
Left out    of train: 1 link to a folder that is listed already or lies above it (train/cat/up)

"""


def test_the_whole_report(folder, tmp_path, capsys):
    exclude, report = tmp_path / "exclude.txt", tmp_path / "report.json"
    assert main([str(folder), "--exclude-list", str(exclude), "--report", str(report)]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(REPORT)
    speed, listed = out[len(REPORT) :].splitlines()
    assert re.fullmatch(r"18 files in [\d.]+ s, \d+ img/s", speed)
    assert listed == f"{exclude}: 7 files for the trainer's --exclude-list"
    assert err == ""
    assert sorted(os.listdir(tmp_path)) == ["data", "exclude.txt", "report.json"]
    content = json.loads(report.read_text())
    bad = [item["path"] for item in content["undecodable"]]
    assert bad == [*(f"train/cat/cut{number}.jpg" for number in range(6)), "val/cat/page.jpg"]
    assert exclude.read_text().splitlines() == bad
    assert content["splits"]["train"]["classes"] == {"cat": 10, "dog": 5, "empty": 0}
    assert content["splits"]["train"]["ignored"] == ["train/cat/notes.txt", "train/cat/up"]
    assert content["under_32_px"] == 1
    assert content["exif_rotated"] == ["train/dog/turned.jpg"]
    leak = [group for group in content["duplicates"] if {image["split"] for image in group} == {"train", "val"}]
    assert leak == [
        [
            {"path": "train/cat/2.jpg", "split": "train", "label": "cat"},
            {"path": "val/cat/leak.jpg", "split": "val", "label": "cat"},
        ]
    ]
    assert len(content["duplicates"]) == 3


def open_with_trainer(data_dir, exclude):
    args = parse_args(["--data-dir", str(data_dir), "--exclude-list", str(exclude), "--model", "resnet18"])
    import torch

    data = open_data(args, World(0, 1, torch.device("cpu")))
    return {os.path.relpath(path, data_dir) for path in (*data.train.files, *data.val.files)}


def test_the_trainer_leaves_out_exactly_the_listed_files(folder, tmp_path):
    exclude = tmp_path / "exclude.txt"
    (folder / "train/empty").rmdir()
    main([str(folder), "--exclude-list", str(exclude)])
    listed = {
        os.path.relpath(path, folder) for name in ("train", "val") for path in scan_image_folder(folder / name).files
    }
    bad = set(exclude.read_text().splitlines())
    assert len(bad) == 7
    assert open_with_trainer(folder, exclude) == listed - bad


def test_a_clean_folder_gives_an_empty_list_that_the_trainer_takes(image_folder, tmp_path, capsys):
    exclude = tmp_path / "exclude.txt"
    assert main([str(image_folder), "--exclude-list", str(exclude)]) == 0
    assert "Undecodable none of 100" in capsys.readouterr().out
    assert exclude.read_bytes() == b""
    assert len(open_with_trainer(image_folder, exclude)) == 100


def test_a_single_split_is_listed_relative_to_its_parent(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder / "val")
    assert main([".", "--exclude-list", str(tmp_path / "exclude.txt")]) == 1
    assert (tmp_path / "exclude.txt").read_text() == "val/cat/page.jpg\n"


@pytest.mark.parametrize("names", [("training", "valid"), ("train", "validation")])
def test_the_trainers_other_names_of_splits(image_folder, tmp_path, capsys, names):
    for name, split in zip(names, ("train", "val"), strict=True):
        (tmp_path / name).symlink_to(image_folder / split)
    assert main([str(tmp_path)]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[:2]] == [
        [names[0], "70"],
        [names[1], "30"],
    ]


def test_a_class_called_train_is_no_split(tmp_path, capsys):
    picture(tmp_path / "train/0.jpg")
    picture(tmp_path / "tram/0.jpg", color=1)
    assert main([str(tmp_path)]) == 0
    assert f"{tmp_path.name}" in capsys.readouterr().out.splitlines()[0]


def test_names_that_are_no_text(tmp_path, capsys):
    """A line break fits into no list; other bytes do, and the trainer reads the same file back."""
    data = tmp_path / "data"
    picture(data / "train/cat/fine.jpg")
    picture(data / "val/cat/fine.jpg", color=1)
    (data / "train/cat/new\nline\x1b[2J\u202e.jpg").write_bytes(b"x")
    name = os.fsdecode(b"caf\xe9.jpg")
    shutil.copy(data / "train/cat/fine.jpg", data / "train/cat" / name)
    exclude, report = tmp_path / "exclude.txt", tmp_path / "report.json"
    assert main([str(data), "--exclude-list", str(exclude), "--report", str(report)]) == 1
    out, err = capsys.readouterr()
    assert exclude.read_bytes() == b"train/cat/caf\xe9.jpg\n"
    assert err == (
        "dali-mix scan: warning: train/cat/new\\nline\\x1b[2J\\u202e.jpg cannot be listed, its name is no line of text"
        "; remove it\n"
    )
    assert "name is not UTF-8, which DALI's reader does not take\n            train/cat/caf\\xe9.jpg\n" in out
    assert "train/cat/new\\nline\\x1b[2J\\u202e.jpg" in out
    assert [each["path"] for each in json.loads(report.read_text())["undecodable"]] == [
        f"train/cat/{name}",
        "train/cat/new\nline\x1b[2J\u202e.jpg",
    ]
    assert f"train/cat/{name}" not in open_with_trainer(data, exclude)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/gone"], "gone does not exist"),
        (["{tmp}"], "is empty of class folders"),
        (["{images}", "--exclude-list", "{tmp}/no/such/list"], "--exclude-list {tmp}/no/such/list cannot be written"),
        (["{images}", "--report", "{file}/report"], "--report {file}/report cannot be written"),
        (["{images}", "--report", "{tmp}"], "--report {tmp} cannot be written"),
        (["{images}", "--val-split", "tset"], "{images}/tset does not exist"),
        (["{images}", "-j", "0"], "must be at least 1"),
    ],
)
def test_bad_input_is_one_line(image_folder, tmp_path, capsys, arguments, message):
    places = {"tmp": tmp_path, "images": image_folder, "file": __file__}
    assert main([argument.format(**places) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("dali-mix scan: error: ")
    assert message.format(**places) in err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b"set/new\nline/0.jpg", "the class folder 'new\\nline' in {tmp}/set has a name that is no line of UTF-8 text"),
        (b"caf\xe9/set/cat/0.jpg", "{tmp}/caf\\xe9/set is not UTF-8, and DALI reads no other names"),
    ],
)
def test_names_that_the_trainer_refuses_are_refused(tmp_path, capsys, name, message):
    path = Path(tmp_path, os.fsdecode(name))
    path.parent.mkdir(parents=True)
    path.touch()
    assert main([str(path.parents[1])]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"dali-mix scan: error: {message.format(tmp=tmp_path)}")
    assert (out, err.count("\n")) == ("", 1)


def test_without_a_terminal_a_line_tells_the_progress(image_folder, monkeypatch, capsys):
    monkeypatch.setattr(scan, "_SAY_EVERY_S", 0)
    main([str(image_folder)])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 100
    assert re.fullmatch(r"dali-mix scan: 64 of 100 files, \d+ img/s, 0 undecodable", lines[63])


def test_on_a_terminal_there_is_a_bar(folder):
    main_side, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    process = subprocess.run(
        [sys.executable, "-m", "dali_mix.tools.scan", folder], stdout=subprocess.PIPE, stderr=terminal
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            shown += os.read(main_side, 10_000)
        except OSError:  # the other side is closed, and everything read
            break
    os.close(main_side)
    assert process.returncode == 1
    assert b"100%|" in shown
    assert b"18/18" in shown
    assert b"undecodable=7" in shown
    assert b"img/s" in shown


def test_ctrl_c_shows_what_was_found(folder, tmp_path):
    """The files of val take for ever to read, so that the scan waits in its fourth batch."""
    reached = tmp_path / "reached"
    code = f"""
import functools, sys
from dali_mix.loading import probe
from dali_mix.tools import scan
probe._START = (
    "import pathlib, runpy, sys, time; sys.path[:] = {{path!r}}; names = runpy.run_path({{file!r}}); "
    "read = names['_read']; wait = lambda: (pathlib.Path({str(reached)!r}).touch(), time.sleep(100)); "
    "names['serve'].__globals__['_read'] = lambda path, most: wait() if '/val/' in path else read(path, most); "
    "names['serve']({{fd}})"
)
scan.probe_images = functools.partial(scan.probe_images, batch_size=5)
sys.exit(scan.main([{str(folder)!r}, "--exclude-list", {str(tmp_path / "exclude.txt")!r}]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 100
    while not reached.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    time.sleep(1)  # the results of the third batch have been received, and are now being looked at
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the worker too
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == "dali-mix scan: interrupted after 15 of 18 files; no file was written\n"
    assert out.startswith("Undecodable 6 of 15\n         6  truncated JPEG\n            train/cat/cut0.jpg\n")
    assert not (tmp_path / "exclude.txt").exists()


SOURCE = """
from dali_mix.sources import Source, register

@register
class Two(Source):
    scheme, gives_paths = "two", True

    def __init__(self, where):
        self.classes, self.labels, self.paths = ("cat",), [0, 0], [f"{where}/0.jpg", f"{where}/page.jpg"]

    def read(self, indices):
        return [self.paths[index] for index in indices]
"""


def test_a_strangers_source_is_scanned(registry, folder, tmp_path, capsys):
    (tmp_path / "two.py").write_text(SOURCE)
    flags = ["--import", str(tmp_path / "two.py"), "--device", "cpu"]
    assert main([f"two:{folder}/train/cat", *flags]) == 1
    assert "2 images in 1 class" in capsys.readouterr().out
    assert main([f"two:{folder}/train/cat", "--import", str(tmp_path / "gone.py")]) == 2
    assert "gone.py is not a file" in capsys.readouterr().err


def test_a_list_of_files_is_scanned(folder, capsys):
    (folder / "all.csv").write_text("path,class\ntrain/cat/0.jpg,cat\nval/cat/page.jpg,cat\ntrain/cat/again.jpg,dog\n")
    assert main([f"list:{folder}/all.csv", "--device", "cpu", "--exclude-list", str(folder / "bad.txt")]) == 1
    out = capsys.readouterr().out
    assert out.startswith("all.csv     3 images in 2 classes; smallest dog 1, median 1.5, largest cat 2\n")
    assert "val/cat/page.jpg" in out
    assert "train/cat/0.jpg = train/cat/again.jpg" in out
    assert (folder / "bad.txt").read_text() == "val/cat/page.jpg\n"
