"""What is in DALI's checkpoints.

A checkpoint is a protocol buffer: field 1, repeated, is an operator's name and state, field 2 the counters of the
pipeline and of the iterator, both JSON.  A reader's state is its random numbers, the epoch and its place in the epoch.
"""

from __future__ import annotations

import json
from typing import Any, TypeAlias

_Fields: TypeAlias = list[tuple[int, Any]]
"""Number of a field, and its bytes or its integer."""

_OPERATOR, _COUNTERS = 1, 2
_NAME, _STATE = 1, 2
_EPOCH, _PLACE = 2, 3


def at_next_epoch(checkpoint: bytes, reader: str, rest: int) -> bytes | None:
    """Move a checkpoint to the beginning of the epoch after the one that it was taken in.

    Right for a reader that begins an epoch alike however the one before ended, as those without ``random_shuffle`` do.

    Args:
        checkpoint: taken within an epoch.
        reader: its name.
        rest: batches that the reader would still make in the epoch.

    Returns:
        None if this version of DALI keeps the reader's state in another form.
    """
    fields = _decode(checkpoint)
    try:
        place, state = _operator(fields, reader)
        ((number, content),) = _decode(state)
        snapshot = _decode(content)
        ((_, _), (_, epoch), _) = snapshot
        if [key for key, _ in snapshot] != [1, _EPOCH, _PLACE] or not isinstance(epoch, int):
            return None
        content = _encode([snapshot[0], (_EPOCH, epoch + 1), (_PLACE, 0)])
        counters = [json.loads(text) for _, text in _decode(dict(fields)[_COUNTERS])]
        counters[0]["iter"] += rest
        counters[1]["_counter"] = 0
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    fields[place] = (_OPERATOR, _encode([(_NAME, reader.encode()), (_STATE, _encode([(number, content)]))]))
    texts = [(index, json.dumps(values).encode()) for index, values in enumerate(counters, 1)]
    return _encode([(key, _encode(texts)) if key == _COUNTERS else (key, value) for key, value in fields])


def adapted(checkpoint: bytes, own: bytes) -> bytes:
    """Adapt a checkpoint to a pipeline whose graph has other operators without a state.

    DALI wants the very same operators; of those without a state only the names are in a checkpoint, and they change
    with the version of the graph.

    Args:
        checkpoint: to be restored.
        own: of the pipeline that it is to be restored to, before it has run.

    Raises:
        ValueError: if the operators with a state are others.
    """
    try:
        saved, fields = _decode(checkpoint), _decode(own)
        states = {operator[_NAME]: operator.get(_STATE) for operator in _operators(saved)}
        counters = dict(saved)[_COUNTERS]
        wanted = [operator[_NAME] for operator in _operators(fields) if operator.get(_STATE)]
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError("it is damaged") from error
    others = {name for name, state in states.items() if state} ^ set(wanted)
    if others:
        raise ValueError(f"only one of the two has a state of {', '.join(sorted(map(repr, map(_text, others))))}")
    result: _Fields = []
    for key, value in fields:
        name = dict(_decode(value))[_NAME] if key == _OPERATOR else b""
        if states.get(name):
            value = _encode([(_NAME, name), (_STATE, states[name])])
        result.append((key, counters if key == _COUNTERS else value))
    return _encode(result)


def _operators(fields: _Fields) -> list[dict[int, Any]]:
    return [dict(_decode(value)) for key, value in fields if key == _OPERATOR]


def _text(name: bytes) -> str:
    return name.decode(errors="replace")


def _operator(fields: _Fields, name: str) -> tuple[int, bytes]:
    """Find where a checkpoint holds an operator, and its state."""
    for place, (key, value) in enumerate(fields):
        if key == _OPERATOR:
            operator = dict(_decode(value))
            if operator[_NAME] == name.encode():
                return place, operator[_STATE]
    raise KeyError(name)


def _decode(message: bytes) -> _Fields:
    """The fields of a protocol buffer that has only integers, strings and messages."""
    fields: _Fields = []
    start = 0
    while start < len(message):
        key, start = _number(message, start)
        value: Any
        value, start = _number(message, start)
        if key & 7 == 2:
            value, start = message[start : start + value], start + value
        elif key & 7:
            raise ValueError(f"field {key >> 3} of a checkpoint is neither an integer nor a string")
        fields.append((key >> 3, value))
    return fields


def _number(message: bytes, start: int) -> tuple[int, int]:
    """An integer, and where it ends: seven bits in a byte, the lowest first."""
    value = shift = 0
    while True:
        byte = message[start]
        value |= (byte & 0x7F) << shift
        start, shift = start + 1, shift + 7
        if byte < 0x80:
            return value, start


def _encode(fields: _Fields) -> bytes:
    message = bytearray()
    for key, value in fields:
        if isinstance(value, int):
            message += _bytes_of(key << 3) + _bytes_of(value)
        else:
            message += _bytes_of(key << 3 | 2) + _bytes_of(len(value)) + value
    return bytes(message)


def _bytes_of(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])
