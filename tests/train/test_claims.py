"""Files that claim more than they hold: refused before memory is taken for it."""

import io
import struct
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from dali_mix.errors import ConfigError
from dali_mix.train.untrusted import UntrustedError, load_data
from dali_mix.train.weights import load_weights

ROOT = Path(__file__).parents[2]
PROTO, STOP = b"\x80\x02", b"."


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def archive(pickled, *members, compression=zipfile.ZIP_STORED):
    """What ``torch.save`` writes, but with this pickle and these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in (("data.pkl", pickled), ("version", b"3"), ("byteorder", b"little"), *members):
            file.writestr(f"archive/{name}", content, compression if name.startswith("data/") else zipfile.ZIP_STORED)
    return buffer.getvalue()


def rewritten(content, change):
    """A file of ``torch.save`` whose members, a mapping of names to bytes, are changed."""
    source, buffer = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    members = change({name: source.read(name) for name in source.namelist()})
    with zipfile.ZipFile(buffer, "w") as file:
        for name, member in members.items():
            file.writestr(name, member)
    return buffer.getvalue()


def with_claim(content, size):
    """A file whose first member claims another size, in both of its headers, than it has."""
    changed = bytearray(content)
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        name = next(name for name in file.namelist() if name.endswith("data/0")).encode()
    for signature, offset, header in ((b"PK\3\4", 18, 30), (b"PK\1\2", 20, 46)):
        start = -1
        while (start := changed.find(signature, start + 1)) >= 0:
            if changed[start + header : start + header + len(name)] == name:
                changed[start + offset : start + offset + 8] = struct.pack("<II", size, size)
    return bytes(changed)


def legacy(content, claimed):
    """The format of before 1.6, with another number of elements than it has."""
    whole = saved(content, _use_new_zipfile_serialization=False)
    count = next(iter(content.values())).numel()
    return whole.replace(b"K" + bytes([count]), b"J" + claimed.to_bytes(4, "little"), 1)


ZEROS = torch.zeros(64)
DEFLATED = archive(
    zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(5_000_000)}))).read("archive/data.pkl"),
    ("data/0", bytes(20_000_000)),
    compression=zipfile.ZIP_DEFLATED,
)
CLAIMS = {
    "a compressed member": (DEFLATED, "compressed member"),
    "a member that claims more": (with_claim(saved({"a": ZEROS}), 10**9), "claims more bytes"),
    "a member beside the numbered ones": (
        rewritten(saved({"a": ZEROS}), lambda old: old | {"archive/data/abcdefgh": bytes(9)}),
        "torch.save does not write",
    ),
    "two pickles": (rewritten(saved({"a": ZEROS}), lambda old: {"archive/DATA.PKL": b"x"} | old), "of the same name"),
    "an archive with a comment": (saved({"a": ZEROS})[:-2] + b"\4\0PK\5\6", "end of the archive"),
    "an end that is elsewhere": (
        (whole := saved({"a": ZEROS}))[:-34] + (1).to_bytes(8, "little") + whole[-26:],
        "not where it says",
    ),
    "no end": (saved({"a": ZEROS})[:-30], "end of the archive"),
    "expanded tensors": (saved({"a": torch.zeros(1).expand(10**11)}), "tensors of 400000000000 bytes"),
    "the same bytes a thousand times": (
        saved(dict(enumerate(torch.zeros(1 << 20).expand(1000, -1).unbind()))),
        "tensors of",
    ),
    "a bytearray": (archive(PROTO + b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R" + STOP), "builtins.bytearray"),
    "a sparse tensor": (saved({"a": torch.zeros(4, 4).to_sparse()}), "_rebuild_sparse_tensor"),
    "a key nested a million times": (archive(PROTO + b"})" + b"\x85" * 10**6 + b"K\1s" + STOP), "nests deeper"),
    "lists nested ten thousand times": (
        archive(PROTO + b"]" * 10**6 + b"a" * (10**6 - 1) + STOP),
        "nests deeper|lists more",
    ),
    "an opcode of a newer protocol": (archive(b"\x80\x04\x8c\3abc" + STOP), "SHORT_BINUNICODE"),
    "a pickle that ends early": (archive(PROTO + b"X\xff\xff\xff\x7fabc"), "damaged"),
    "a stack that is empty": (archive(PROTO + b"a" + STOP), "damaged"),
    "a memo that is empty": (archive(PROTO + b"h\1" + STOP), "damaged"),
    "a legacy file that claims more": (legacy({"a": ZEROS}, 10**9), "damaged"),
    "a legacy bytearray": (
        saved({"a": ZEROS}, _use_new_zipfile_serialization=False).replace(
            b"ccollections\nOrderedDict", b"cbuiltins\nbytearray", 1
        ),
        "builtins.bytearray",
    ),
    "a tar": (b"storages".ljust(257, b"\0") + b"ustar".ljust(255, b"\0"), "no file of torch.save|damaged"),
    "a TorchScript archive": (
        rewritten(saved({"a": ZEROS}), lambda old: old | {"archive/constants.pkl": b"x"}),
        "damaged",
    ),
}
LOAD = """
import resource, sys
from pathlib import Path
from dali_mix.train.untrusted import UntrustedError, load_data
import torch
for path in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        load_data(Path(path))
        print("loaded", end=" ")
    except UntrustedError:
        print("refused", end=" ")
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, path)
"""


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_is_refused(tmp_path, name):
    content, message = CLAIMS[name]
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UntrustedError, match=message) as error:
        load_data(tmp_path / "weights.pth")
    assert "\n" not in str(error.value)


def test_a_pickle_lists_no_more_than_its_bound(tmp_path, monkeypatch):
    """A byte of a pickle may come to several hundred bytes of objects."""
    monkeypatch.setattr("dali_mix.train.untrusted._MOST_OPERATIONS", 1000)
    (tmp_path / "weights.pth").write_bytes(archive(PROTO + b"](" + b"]" * 1000 + b"e" + STOP))
    with pytest.raises(UntrustedError, match="lists more than 1000 things"):
        load_data(tmp_path / "weights.pth")


def test_claims_take_no_memory(tmp_path):
    """In another process, whose memory is what these files make it."""
    for index, (content, _) in enumerate(CLAIMS.values()):
        (tmp_path / f"{index}.pth").write_bytes(content)
    paths = [str(tmp_path / f"{index}.pth") for index in range(len(CLAIMS))]
    result = subprocess.run([sys.executable, "-c", LOAD, *paths], cwd=ROOT, capture_output=True, text=True, timeout=120)
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[0] for row in rows] == ["refused"] * len(CLAIMS), result.stderr
    assert max(int(row[1]) for row in rows) < 100, rows


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_what_torch_saves_is_read(tmp_path, options):
    shared = torch.arange(12.0).reshape(3, 4)
    content = {
        "state_dict": OrderedDict(a=shared, tied=shared.T, half=torch.ones(2, dtype=torch.bfloat16)),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "args": Namespace(lr=0.1, sizes=[1, 2]),
        "bytes": bytes(range(256)),
        "rest": [None, True, 2**63, -1, 1.5, (1, "ä"), {3, 4}, torch.Size([1]), torch.float16],
    }
    torch.save(content, tmp_path / "file.pth", **options)
    read = load_data(tmp_path / "file.pth")
    assert read.keys() == content.keys()
    assert all(torch.equal(read["state_dict"][name], value) for name, value in content["state_dict"].items())
    assert torch.equal(read["parameter"], content["parameter"])
    assert read["state_dict"]["a"].data_ptr() == read["state_dict"]["tied"].data_ptr()
    assert [read[name] for name in ("args", "bytes", "rest")] == [content[name] for name in ("args", "bytes", "rest")]


def test_weights_name_the_file_and_the_claim(tmp_path):
    (tmp_path / "weights.pth").write_bytes(CLAIMS["a compressed member"][0])
    with pytest.raises(ConfigError, match=r"weights\.pth cannot be read as weights: it has a compressed member"):
        load_weights(torch.nn.Linear(1, 1), tmp_path / "weights.pth")
