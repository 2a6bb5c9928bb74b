"""Files from others are data: none of them runs code, reads elsewhere or fills the memory; one line says why not."""

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from dali_mix.train.untrusted import UntrustedError, load_data

ROOT = Path(__file__).parents[2]


class Payload:
    """What a pickle does if it is allowed to."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def mark(tmp_path):
    """Made by code that a file has smuggled in."""
    return tmp_path / "smuggled"


@pytest.fixture
def refused(train, mark):
    """Run the command line, which must refuse; the line that says why."""

    def run(*flags):
        code, out, err = train(*flags)
        assert code == 2, out
        *before, line = err.splitlines()
        assert line.startswith("train_imagenet.py: error: ")
        assert all(each.startswith(("training: ", "validation: ", "continuing ")) for each in before), err
        assert not mark.exists(), "a file has run code"
        return err

    return run


def test_a_payload_works_where_it_is_let(mark):
    """Or the tests below would prove nothing."""
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()


CODE = ["!!python/object/apply:os.system [touch {mark}]", "!!python/object/new:os.system [touch {mark}]",
        "!!python/name:os.system"]  # fmt: skip


@pytest.mark.parametrize("value", CODE)
@pytest.mark.parametrize("line", ["epochs: {}", "{}: 1", "model_kwargs: {{depth: {} }}", "{}"])
def test_a_config_with_code(refused, tmp_path, mark, line, value):
    (tmp_path / "config.yaml").write_text(line.format(value.format(mark=mark)))
    assert "could not determine a constructor" in refused("--config", tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 2020-99-99", "is not YAML"),
        ("epochs: !!int ''", "is not YAML"),
        ("amp: !!bool maybe", "is not YAML"),
        ("epochs: " + "9" * 20_000, "longer than 2048 characters"),
        ("epochs: " + "1:" * 1000 + "1.5", "is not YAML"),
        ("lr: " + "[" * 20_000, "is not YAML"),
        ("#" * (1 << 16) + "\nepochs: 1", "larger than 64 KiB"),
        ("model_kwargs: &a {depth: *a}", "an alias stands for what it is part of"),
        ("? [a, b]\n: 1", "unhashable"),
        ('"a\\nb": 1', "is not a flag"),
        ("\0", "is not YAML"),
    ],
    ids=lambda text: text[:16] if isinstance(text, str) else None,
)
def test_a_config_that_is_no_settings(refused, tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    assert message in refused("--config", tmp_path / "config.yaml")


def test_aliases_are_settings_as_any(train, tmp_path):
    (tmp_path / "config.yaml").write_text("mean: &gray [0.5, 0.5, 0.5]\nstd: *gray\n")
    code, _, err = train("--config", tmp_path / "config.yaml", "--bench-steps", 1)
    assert code == 0, err


BOMB = ["&a0 [x, x, x, x, x, x, x, x, x]", *(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]
MERGES = ["&m0 {a: 1}", *(f"&m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}" for i in range(1, 12))]
BOMBS = {  # where each of these texts is printed, counted or converted, it would be so for ever
    "a list": "scale: [" + ", ".join(BOMB) + "]",
    "one number": "lr: [" + ", ".join(BOMB) + "]",
    "a switch": "smmix: [" + ", ".join(BOMB) + "]",
    "a mapping": "model_kwargs: {depth: [" + ", ".join(BOMB) + "]}",
    "merge keys": "model_kwargs: {depth: [" + ", ".join(MERGES) + "]}",
    "a key": "? [" + ", ".join(BOMB) + "]\n: 1",
}
RUN_BOMBS = """
import resource, sys
from dali_mix.train import main
from train_imagenet import PIPELINES
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        main(PIPELINES, ["--config", path])
    except SystemExit as error:
        print(error.code)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, "MiB")
"""


def test_a_config_that_grows_without_bound(tmp_path):
    """In another process: one that fails would take this one with it."""
    for name, text in BOMBS.items():
        (tmp_path / name).write_text(text)
    result = subprocess.run(
        [sys.executable, "-c", RUN_BOMBS, *(str(tmp_path / name) for name in BOMBS)],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    *codes, growth = result.stdout.splitlines()
    assert codes == ["2"] * len(BOMBS), result.stderr
    assert result.stderr.count("it holds more than 10000 values") == len(BOMBS) == result.stderr.count("\n")
    assert int(growth.split()[0]) < 50


@pytest.mark.parametrize("content", [b"\x89PNG\xff\xfe\0", bytes(range(256)), b"disc\0\nellipse"])
def test_a_class_map_of_bytes(refused, tmp_path, content):
    (tmp_path / "classes.txt").write_bytes(content)
    refused("--class-map", tmp_path / "classes.txt")


@pytest.mark.parametrize("line", ["../elsewhere", "{elsewhere}", "..", ".", "deep/er", "nul\0byte"])
def test_a_class_map_that_leads_out_of_the_folder(refused, image_folder, tmp_path, line):
    """Images elsewhere must not become part of the data."""
    names = sorted(path.name for path in (image_folder / "train").iterdir())
    line = line.format(elsewhere=image_folder / "val" / names[0])
    (tmp_path / "classes.txt").write_text("\n".join([*names, line]))
    assert repr(line) in refused("--class-map", tmp_path / "classes.txt")


def test_an_exclude_list_is_compared_and_never_opened(train, image_folder, tmp_path):
    """Opening a FIFO that nobody writes to would wait for ever."""
    os.mkfifo(tmp_path / "fifo")
    image = next((image_folder / "val").glob("*/*.jpg"))
    relative = image.relative_to(image_folder)
    lines = ["/etc/passwd", "../../etc/passwd", "/dev/zero", "~", "$(touch smuggled)", str(tmp_path / "fifo"),
             f"train/../../{image_folder.name}/{relative}"]  # fmt: skip
    (tmp_path / "excluded.txt").write_text("\n".join(lines))
    train("--experiment", "run", "--epochs", 1)
    evaluate = ["--eval-only", "--initial-checkpoint", tmp_path / "run" / "model.safetensors"]
    _, everything, _ = train(*evaluate)
    code, out, err = train(*evaluate, "--exclude-list", tmp_path / "excluded.txt")
    assert code == 0, err
    assert ("30" in everything.split(), "29" in out.split()) == (True, True)
    assert not list(tmp_path.glob("**/smuggled"))


def test_an_exclude_list_of_bytes(refused, tmp_path):
    (tmp_path / "excluded.txt").write_bytes(bytes(range(256)))
    refused("--exclude-list", tmp_path / "excluded.txt")


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def with_members_elsewhere(content, place):
    """A zip of torch's whose members, or an additional one, would be written elsewhere by whoever unpacks it."""
    source, target = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            archive.writestr(name if place == "one" else f"../../{name}", source.read(name))
        archive.writestr("../../smuggled", "x")
    return target.getvalue()


def header(text, length=None):
    return (len(text) if length is None else length).to_bytes(8, "little") + text


WEIGHTS = {
    "pickle in a zip.pth": lambda evil: saved({"state_dict": evil}),
    "pickle as a key.pth": lambda evil: saved({"state_dict": {"head.weight": torch.zeros(1)}, "x": [evil]}),
    "pickle.pth": lambda evil: pickle.dumps(evil, protocol=2),
    "pickle.pth.tar": lambda evil: pickle.dumps({"state_dict": evil}, protocol=2),
    "traversal of all.pth": lambda evil: with_members_elsewhere(saved({"state_dict": evil}), "all"),
    "traversal of one.pth": lambda evil: with_members_elsewhere(saved({"state_dict": evil}), "one"),
    "pickle.safetensors": lambda evil: pickle.dumps(evil),
    "zip.safetensors": lambda evil: saved({"state_dict": evil}),
    "endless header.safetensors": lambda evil: header(b"{}", 2**63),
    "long header.safetensors": lambda evil: header(b"{}", 99_000_000),
    "no header.safetensors": lambda evil: b"\1",
    "huge tensor.safetensors": lambda evil: header(
        b'{"a": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4000000000000]}}'
    ),
    "empty.pth": lambda evil: b"",
    "text.pth": lambda evil: b"<!DOCTYPE html>",
}


@pytest.mark.parametrize("flag", ["--initial-checkpoint", "--pretrained-path"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_more_than_data(refused, tmp_path, mark, name, flag):
    path = tmp_path / "from others" / name
    path.parent.mkdir()
    path.write_bytes(WEIGHTS[name](Payload(mark)))
    refused(flag, path)
    assert [each for each in tmp_path.rglob("*") if each.name == "smuggled"] == []


def test_a_newer_pickle_is_refused_in_one_line_too(refused, tmp_path, mark):
    """PyTorch warns of its protocol."""
    (tmp_path / "weights.pth").write_bytes(pickle.dumps(Payload(mark), protocol=4))
    assert "more than data" in refused("--initial-checkpoint", tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["state.pt", "rank-0.pt"])
def test_a_checkpoint_that_is_more_than_data(train, refused, tmp_path, mark, name):
    """Also one whose checksums are right."""
    code, _, err = train("--experiment", "first", "--epochs", 1)
    assert code == 0, err
    checkpoint = max((path.parent for path in (tmp_path / "first").rglob(name)), key=lambda path: path.name)
    evil = pickle.dumps({"format": Payload(mark)}, protocol=2)
    (checkpoint / name).write_bytes(evil)
    sums = json.loads((checkpoint / "checksums.json").read_text())
    sums["files"][name] = {"bytes": len(evil), "sha256": hashlib.sha256(evil).hexdigest()}
    (checkpoint / "checksums.json").write_text(json.dumps(sums))
    assert "more than data" in refused("--resume", checkpoint, "--epochs", 2)


def doubled(times):
    """A pickle whose only key is a pair of one pair, which is a pair of one pair, ...: its hash takes 2^times steps."""
    pairs = b"".join(b"(h%bh%btq%b0" % (bytes([k - 1]), bytes([k - 1]), bytes([k])) for k in range(1, times))
    return b"\x80\x02}(K\1K\1tq\x000" + pairs + b"h%bK\1s." % bytes([times - 1])


def test_a_key_that_takes_for_ever_to_be_hashed(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.pth", "w") as archive:
        archive.writestr("x/data.pkl", doubled(90))
        archive.writestr("x/version", "3\n")
    with pytest.raises(UntrustedError, match="comes to more than"):
        load_data(tmp_path / "weights.pth")
