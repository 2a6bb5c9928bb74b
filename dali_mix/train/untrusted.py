"""Files of ``torch.save`` from others: read as data, in no more memory than a small multiple of their size.

``torch.load(weights_only=True)`` runs no code, but trusts what a file says of its own size: it inflates compressed
members, makes ``bytearray(2_000_000_000)`` where a pickle asks for it, ends in a segmentation fault on a tuple
that is nested a million times and used as a key, and never ends on one that holds twice what holds twice what ...  So
the file is looked through before it is loaded.
"""

from __future__ import annotations

import argparse
import io
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from dali_mix.errors import first_line

_ZIP = b"PK\3\4"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files begin that ``torch.save`` writes, and that it wrote before 1.6: the pickle of a magic number."""

_LEGACY_PICKLES = 5  # magic number, protocol, byte order, content, keys of the storages
_MOST_OPERATIONS = 500_000
"""The most of a pickle.  A state of 10,000 tensors has 250,000; each may come to several hundred bytes."""
_MOST_NESTING = 100
_MOST_PARTS = 20 * _MOST_OPERATIONS
"""The most that the operations of a pickle are given, each part counted with what it holds, as often as it holds it:
so many steps a key takes to be hashed.  In the files of training runs it is about five times the operations."""
_MOST_COPIES = 8
"""Bytes of all tensors over bytes of the file; tied weights are views of the same bytes."""
_SMALL_BYTES = 1 << 20

_OPERATIONS = frozenset(
    "PROTO STOP GLOBAL NEWOBJ REDUCE BUILD BINPERSID MARK POP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 "
    "BINFLOAT BINUNICODE SHORT_BINSTRING EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND "
    "APPENDS SETITEM SETITEMS BINGET LONG_BINGET BINPUT LONG_BINPUT".split()
)
"""What ``torch.save`` writes; others are refused, as what they make is not looked through."""

_DATA = frozenset(
    "argparse.Namespace collections.OrderedDict collections.Counter builtins.set __builtin__.set _codecs.encode "
    "torch.Size torch.device torch.Tensor torch.nn.parameter.Parameter torch.storage.UntypedStorage "
    "torch._tensor._rebuild_from_type_v2 torch._utils._rebuild_tensor torch._utils._rebuild_tensor_v2 "
    "torch._utils._rebuild_tensor_v3 torch._utils._rebuild_parameter "
    "torch._utils._rebuild_parameter_with_state".split()
)
"""What a pickle may name besides types of elements.  timm's trainer, DeiT's and those made of them put their flags
in, a ``Namespace``, which timm allows too."""


class UntrustedError(ValueError):
    """A file that is not read; the message, which goes on from the file's name, says why."""


def load_data(path: Path) -> Any:
    """Read what ``torch.save`` wrote: tensors on the CPU, plain types, and a ``Namespace`` of flags.

    Args:
        path: a zip archive of PyTorch's, or in its format of before 1.6.

    Raises:
        UntrustedError: if it is damaged, holds more than data, or would come to more than its size.
        OSError: if it cannot be opened.
    """
    with path.open("rb") as file:
        begin = file.read(len(_LEGACY))
        file.seek(0)
        if begin[: len(_ZIP)] == _ZIP:
            _check_archive(file)
        elif begin == _LEGACY:
            for _ in range(_LEGACY_PICKLES):
                _check_pickle(file)
        else:
            _check_pickle(file)  # names what it would import
            raise UntrustedError("is no file of torch.save, or damaged")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle's age; either it loads, or the error is what counts
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, as what a damaged file says is carried out
        raise UntrustedError(f"is damaged, or holds more than data: {first_line(error)}") from error
    held, size = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(content)), path.stat().st_size
    if held > _MOST_COPIES * size + _SMALL_BYTES:
        raise UntrustedError(f"holds tensors of {held} bytes in {size}; save them with clone()")
    return content


def _check_archive(file: IO[bytes]) -> None:
    """All members stored as they are, and one behind the other; the pickle in bounds."""
    size = file.seek(0, io.SEEK_END)
    try:
        _check_end(file, size)
        with zipfile.ZipFile(file) as archive:
            members = sorted(archive.infolist(), key=lambda member: member.header_offset)
            for member in members:
                if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
                    raise UntrustedError(f"has a compressed member ({member.filename!r}); save it with torch.save")
                # PyTorch finds names in either case: one member would be read again for each spelling.
                name = member.filename.rpartition("/data/")[2]
                if "/data/" in member.filename and not (name.isascii() and name.isdecimal()):
                    raise UntrustedError(f"has a member that torch.save does not write ({member.filename!r})")
            ends = [member.header_offset for member in members[1:]] + [size]
            if any(one.header_offset + one.file_size > end for one, end in zip(members, ends, strict=True)):
                raise UntrustedError("claims more bytes than it has; it is damaged")
            if len({member.filename.lower() for member in members}) < len(members):
                raise UntrustedError("has two members of the same name")
            pickles = [member for member in members if member.filename.lower().endswith("data.pkl")]
            if len(pickles) != 1:
                raise UntrustedError("is a zip archive, but not of torch.save")
            _check_pickle(io.BytesIO(archive.read(pickles[0])))
    except (zipfile.BadZipFile, OSError, struct.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise UntrustedError(f"is damaged: {first_line(error)}") from error


def _check_end(file: IO[bytes], size: int) -> None:
    """The end of the archive is where any reader looks for it: PyTorch's must not find other members than Python's."""
    file.seek(max(0, size - 98))
    end = file.read()
    if end[-22:-18] != b"PK\5\6" or end[-2:] != b"\0\0":
        raise UntrustedError("is damaged: the end of the archive is missing")
    if end[-42:-38] == b"PK\6\7" and (
        int.from_bytes(end[-34:-26], "little") != size - 98 or not end.startswith(b"PK\6\6")
    ):
        raise UntrustedError("is damaged: the end of the archive is not where it says")


def _check_pickle(file: IO[bytes]) -> None:
    """Nothing but data, and of bounded size and depth; the file is then behind the pickle."""
    stack: list[_Object | None] = []  # None for a mark
    memo: dict[int, _Object | None] = {}
    foreign: list[str] = []
    count = parts = 0
    try:
        for opcode, argument, _ in pickletools.genops(file):
            count += 1
            if count > _MOST_OPERATIONS:
                raise UntrustedError(f"lists more than {_MOST_OPERATIONS} things; save its state_dict alone")
            if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST"):
                name = str(argument).replace(" ", ".")
                if not (name in _DATA or _is_element_type(name)):
                    foreign.append(name)
            if opcode.name not in _OPERATIONS:
                foreign.append(f"pickle's {opcode.name}")
            if len(foreign) > 2:
                break
            if not foreign:
                parts += _follow(opcode, argument, stack, memo)
            if parts > _MOST_PARTS:
                raise UntrustedError(f"comes to more than {_MOST_PARTS} things; save its state_dict alone")
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        if isinstance(error, UntrustedError):
            raise
        raise UntrustedError("is damaged, or holds more than data; save its state_dict alone") from error
    if foreign:
        named = [name for name in foreign if not name.startswith("pickle's")] or foreign
        raise UntrustedError(f"holds more than data ({', '.join(sorted(set(named)))}); save its state_dict alone")


_ADDING = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD")


@dataclass
class _Object:
    """What a pickle makes.

    Fields:
        depth: how deep it nests.
        parts: what it holds, and what that holds, as often as it is held.
    """

    depth: int
    parts: int


def _follow(
    opcode: pickletools.OpcodeInfo, argument: Any, stack: list[_Object | None], memo: dict[int, _Object | None]
) -> int:
    """What an operation does to the stack, as far as depth and size go; returns the parts that it is given."""
    if opcode.name in ("BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
        return 0
    if opcode.name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
        return 0
    taken: list[_Object] = []
    for kind in reversed(opcode.stack_before):
        if kind is pickletools.stackslice:
            while (each := stack.pop()) is not None:
                taken.append(each)
            stack.append(None)
        elif (each := stack.pop()) is not None:
            taken.append(each)
    made = taken.pop() if opcode.name in _ADDING else _Object(0, 1)  # the same object, also where the memo has it
    parts = sum(each.parts for each in taken)
    made.depth = max(made.depth, *(each.depth + 1 for each in taken)) if taken else made.depth
    made.parts += parts
    if made.depth > _MOST_NESTING:
        raise UntrustedError(f"nests deeper than {_MOST_NESTING}; save its state_dict alone")
    for kind in opcode.stack_after:
        stack.append(None if kind is pickletools.markobject else made)
    return parts


def _is_element_type(name: str) -> bool:
    """Whether a name is a type of PyTorch's tensors' elements, or of their storages."""
    module, _, name = name.rpartition(".")
    if module not in ("torch", "torch.cuda"):
        return False
    return name.endswith("Storage") or isinstance(getattr(torch, name, None), torch.dtype)


def _tensors(content: Any) -> Iterator[Tensor]:
    """The tensors in a content, each once."""
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple, set)):
            waiting += value
        elif isinstance(value, argparse.Namespace):
            waiting += vars(value).values()
