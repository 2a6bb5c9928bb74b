"""What the files of a checkpoint hold, written once: a field of another kind is refused before anything uses it.

Checksums tell that a file is what was written, not that who wrote it was right: a converted or patched checkpoint has
right sums too.  What also depends on the model is checked where it is loaded.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch

from dali_mix.train.columns import is_column

Check: TypeAlias = Callable[[Any, str], None]
"""Raises :class:`SchemaError` for a value, which it calls by the name that is given."""

_MOST = 1 << 40
"""The largest count: far beyond any run, and small enough for every integer type that a count is put into."""
_MOST_VALUES = 100_000
_WORD = (1 << 32) - 1


class SchemaError(ValueError):
    """A field that is not what it should be; the message names it."""


def check_run(record: Mapping[str, Any]) -> None:
    """Check the content of ``run.pt``.

    Raises:
        SchemaError: for the first field that is missing, or not what it should be.
    """
    _RUN(record, "")
    _integer()(record.get("skipped", 0), "skipped")  # older checkpoints have none
    epoch, batch = record["position"]
    _demand(batch <= record["batches"], "position", record["position"], f"within epochs of {record['batches']} batches")
    _demand(len(record["rows"]) <= epoch, "rows", len(record["rows"]), f"at most one for each of {epoch} epochs")


def check_shared(shared: Mapping[str, Any]) -> None:
    """Check the content of ``state.pt``; whether its tensors fit the model is seen when they are loaded.

    Raises:
        SchemaError: as above.
    """
    _SHARED(shared, "")


def check_rank(rank: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Check the content of ``rank-R.pt``.

    Args:
        rank: the content.
        record: that have passed :func:`check_run`.

    Raises:
        SchemaError: as above.
    """
    _RANK(rank, "")
    batch, loader = record["position"][1], rank["loader"]
    _demand(
        rank["tally"]["batches"] == batch, "tally batches", rank["tally"]["batches"], f"{batch}, as the position has"
    )
    _demand(loader["delivered"] <= record["batches"], "loader delivered", loader["delivered"],
            f"at most {record['batches']}")  # fmt: skip
    files = loader["fingerprint"]["num_samples"]
    _integer()(loader.get("epoch", 0), "loader epoch")  # older ones have none
    stand_ins = loader.get("stand_ins", [])
    _STAND_INS(stand_ins, "loader stand_ins")
    _LOOK_AHEAD(loader.get("look_ahead", [0, 0]), "loader look_ahead")
    for index, other, _ in stand_ins:
        _demand(max(index, other) < files, "loader stand_ins", max(index, other), f"one of {files} files")


def _demand(holds: bool, name: str, value: Any, wanted: str) -> None:
    if not holds:
        shown = f"a tensor {tuple(value.shape)}" if isinstance(value, torch.Tensor) else reprlib.repr(value)
        raise SchemaError(f"{name or 'its content'} is {shown}, not {wanted}")


def _integer(lowest: int = 0, highest: int = _MOST) -> Check:
    def check(value: Any, name: str) -> None:
        # bool is an int to isinstance.
        fits = type(value) is int and lowest <= value <= highest
        _demand(fits, name, value, f"an integer from {lowest} to {highest}")

    return check


def _number(lowest: float = -math.inf) -> Check:
    """A number, also infinity and NaN: a loss may overflow, and an average of nothing is no number."""

    def check(value: Any, name: str) -> None:
        fits = type(value) is float or (type(value) is int and abs(value) <= _MOST)
        wanted = "a number" if lowest == -math.inf else f"a number of at least {lowest:g}"
        _demand(fits and not value < lowest, name, value, wanted)

    return check


def _text(value: Any, name: str) -> None:
    _demand(isinstance(value, str), name, value, "text")


def _bytes(value: Any, name: str) -> None:
    _demand(isinstance(value, bytes), name, value, "bytes")


def _switch(value: Any, name: str) -> None:
    _demand(isinstance(value, bool), name, value, "true or false")


def _plain(value: Any, name: str) -> None:
    """Settings: texts, numbers, and lists and mappings of them."""
    waiting, count = [value], 0
    while waiting:
        part = waiting.pop()
        count += 1
        _demand(count <= _MOST_VALUES, name, value, f"at most {_MOST_VALUES} values")
        if isinstance(part, Mapping):
            waiting += part.values()
        elif isinstance(part, (list, tuple)):
            waiting += part
        else:
            _demand(part is None or isinstance(part, (bool, int, float, str, torch.dtype)), name, part,
                    "a setting")  # fmt: skip


def _tensor(dtype: torch.dtype | None = None, size: int | None = None) -> Check:
    def check(value: Any, name: str) -> None:
        fits = isinstance(value, torch.Tensor) and dtype in (None, value.dtype) and not value.is_complex()
        fits = fits and (size is None or value.shape == (size,))
        kind = "" if dtype is None else f" of {str(dtype).removeprefix('torch.')}"
        _demand(fits, name, value, f"a tensor{kind}{'' if size is None else f' ({size},)'}")

    return check


def _either(*checks: Check) -> Check:
    """One of several kinds; the message is of the last."""

    def check(value: Any, name: str) -> None:
        for attempt in checks[:-1]:
            try:
                return attempt(value, name)
            except SchemaError:
                continue
        return checks[-1](value, name)

    return check


def _nothing(value: Any, name: str) -> None:
    _demand(value is None, name, value, "nothing")


def _items(*checks: Check) -> Check:
    """A list of as many parts, each with its own check."""

    def check(value: Any, name: str) -> None:
        _demand(isinstance(value, list) and len(value) == len(checks), name, value, f"a list of {len(checks)}")
        for index, (part, each) in enumerate(zip(value, checks, strict=True)):
            each(part, f"{name}[{index}]")

    return check


def _all(each: Check, length: int | None = None) -> Check:
    """A list of like parts."""

    def check(value: Any, name: str) -> None:
        fits = isinstance(value, list) and length in (None, len(value))
        _demand(fits, name, value, "a list" if length is None else f"a list of {length}")
        for index, part in enumerate(value):
            each(part, f"{name}[{index}]")

    return check


def _mapping(key: Check, each: Check) -> Check:
    """Any keys of a kind."""

    def check(value: Any, name: str) -> None:
        _demand(isinstance(value, Mapping), name, value, "a mapping")
        for own, part in value.items():
            key(own, f"a key of {name}")
            each(part, f"{name} {own}")

    return check


def _fields(others: Check | None = None, /, **checks: Check) -> Check:
    """Fields by name, which must be there; ``others`` is for those that are not named, by default anything."""

    def check(value: Any, name: str) -> None:
        _demand(isinstance(value, Mapping), name, value, "a mapping")
        for field, each in checks.items():
            _demand(field in value, name, sorted(map(str, value))[:5], f"a mapping with {field!r}")
            each(value[field], f"{name} {field}".strip())
        if others is not None:
            for field in value.keys() - checks.keys():
                _text(field, f"a key of {name}")
                others(value[field], f"{name} {field}".strip())

    return check


def _row(value: Any, name: str) -> None:
    """A row of the summary, by its columns."""
    _mapping(_text, _number())(value, name)
    unknown = sorted(column for column in value if not is_column(column))
    _demand(not unknown, name, unknown, "columns of summary.csv")
    _demand("epoch" in value and "seconds" in value, name, sorted(value), "a row with an epoch and its seconds")


def _absent_or(each: Check) -> Check:
    return _either(_nothing, each)


_RUN = _fields(
    fingerprint=_fields(_plain, ranks=_integer(1, 1 << 16)),
    computed_by=_mapping(_text, _either(_text, _integer())),
    launcher=_text,
    position=_items(_integer(highest=1 << 20), _integer()),
    batches=_integer(1),
    rows=_all(_row),
)
_TENSORS = _mapping(_text, _tensor())
_SHARED = _fields(
    updates=_integer(),
    skipped=_integer(),
    optimizer=_fields(
        state=_mapping(_either(_integer(), _text), _mapping(_text, _either(_tensor(), _all(_tensor()), _plain))),
        param_groups=_all(_fields(_either(_tensor(), _plain), params=_all(_integer()))),
    ),
    scheduler=_fields(_plain),
    scaler=_fields(_number()),
    methods=_mapping(_text, _TENSORS),
)
_RANDOM = _fields(
    python=_items(_integer(), _all(_integer(0, _WORD), 625), _absent_or(_number())),
    numpy=_items(_text, _all(_integer(0, _WORD), 624), _integer(0, 624), _integer(0, 1), _number()),
    torch=_tensor(torch.uint8, len(torch.get_rng_state())),
    cuda=_absent_or(_tensor(torch.uint8)),
)
_STAND_INS = _all(_items(_integer(), _integer(), _text))
_LOOK_AHEAD = _items(_integer(), _integer())
_COUNTS = dict.fromkeys(("batches", "images", "skipped", "img_size"), _integer())
_RANK = _fields(
    loader=_fields(
        delivered=_integer(),
        fingerprint=_fields(_plain, num_samples=_integer(1), batch_size=_integer(1)),
        pipeline=_bytes,
    ),
    tally=_fields(
        **_COUNTS,
        waited=_number(0.0),
        lr=_number(),
        closed=_switch,
        earlier=_number(0.0),
        losses=_mapping(_text, _items(_number(), _integer())),
    ),
    rng=_RANDOM,
)
