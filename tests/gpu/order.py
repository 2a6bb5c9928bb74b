"""What an order of training that Python decides costs: DALI's file reader beside paths that a callback hands out.

    python -m tests.gpu.order --data-dir PHOTOGRAPHS --device gpu --time-limit 45 --json order.json

Rows are "SOURCE WORK", each also "busy": beside a Python thread that holds the GIL half of the time and, on a GPU,
multiplies matrices.  Sources: "reader" is ``fn.readers.file`` as ``read_images`` sets it; the others read with
``fn.io.file.read`` what a callback names, with labels, in a new permutation each epoch.  "each" encodes every path
when it is needed, "slices" cuts them from one buffer, "padded" takes rows of a table whose paths are made equally long
by slashes, so that a batch is one array.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import Pipeline

from dali_mix.data import random_resized_crop, scan_image_folder, select_backend
from dali_mix.tools.bench.report import Column, environment, format_table
from dali_mix.tools.bench.timing import measure, ratio, spread

SOURCES = ("reader", "each", "slices", "padded")
COLUMNS = (
    Column("ms", "ms / batch", ".2f"),
    Column("ratio", "time / reader", ".3f"),
    Column("callback_ms", "ms in the callback", ".3f"),
)

_WARM_UP = 5
"""Batches before the clock starts: an idle pipeline holds some ready."""


class Order:
    """The callback of ``external_source``: paths and labels of a batch, in a new permutation each epoch.

    Args:
        files: paths.
        labels: their classes.
        batch_size: of the pipeline; what does not fill a batch is left out of its epoch.
        form: "each", "slices" or "padded".
    """

    def __init__(self, files: Sequence[str], labels: Sequence[int], batch_size: int, form: str) -> None:
        self.seconds, self.calls = 0.0, 0
        self._labels = np.array(labels, np.int32)[:, None]
        self._batch_size, self._epoch = batch_size, -1
        self._paths: Callable[[np.ndarray], object] = getattr(self, f"_{form}")
        self._files = files
        encoded = [os.fsencode(path) for path in files]
        if form == "slices":
            self._ends = np.cumsum([len(path) for path in encoded])
            self._buffer = np.frombuffer(bytearray(b"".join(encoded)), np.uint8)
        if form == "padded":
            longest = max(map(len, encoded))
            # As many slashes as one likes may stand where one does.
            rows = (path.replace(b"/", b"/" * (1 + longest - len(path)), 1) for path in encoded)
            self._table = np.frombuffer(bytearray(b"".join(rows)), np.uint8).reshape(-1, longest)

    def __call__(self, info: types.BatchInfo) -> tuple[object, np.ndarray]:
        """Paths, uint8 (bytes,) each or (B, bytes), and labels, int32 (B, 1), of a batch of the whole run."""
        begin = time.perf_counter()
        epoch, batch = divmod(info.iteration, len(self._labels) // self._batch_size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([0, epoch]).permutation(len(self._labels))
        chosen = self._order[batch * self._batch_size : (batch + 1) * self._batch_size]
        result = self._paths(chosen), self._labels[chosen]
        self.seconds, self.calls = self.seconds + time.perf_counter() - begin, self.calls + 1
        return result

    def _each(self, chosen: np.ndarray) -> list[np.ndarray]:
        return [np.frombuffer(bytearray(os.fsencode(self._files[index])), np.uint8) for index in chosen.tolist()]

    def _slices(self, chosen: np.ndarray) -> list[np.ndarray]:
        ends, starts = self._ends[chosen].tolist(), np.where(chosen, self._ends[chosen - 1], 0).tolist()
        return [self._buffer[start:end] for start, end in zip(starts, ends, strict=True)]

    def _padded(self, chosen: np.ndarray) -> np.ndarray:
        return self._table[chosen]


@pipeline_def(seed=0, prefetch_queue_depth=2)
def _pipeline(files, labels, order, work, args):  # type: ignore[no-untyped-def]
    if order is None:
        jpegs, classes = fn.readers.file(
            files=files,
            labels=labels,
            shuffle_after_epoch=True,
            pad_last_batch=True,
            dont_use_mmap=True,
            name="reader",
        )
    else:
        paths, classes = fn.external_source(
            source=order, num_outputs=2, batch=True, batch_info=True, dtype=[types.UINT8, types.INT32], ndim=[1, 1]
        )
        jpegs = fn.io.file.read(paths, dont_use_mmap=True)
    if work == "read":
        return jpegs, classes
    return random_resized_crop(jpegs, args.img_size, decoder=select_backend(args.device).decoder), classes


def _time(pipeline: Pipeline, order: Order | None, batches: int, busy: bool) -> tuple[float, float]:
    """Seconds per batch, and those of them in the callback."""
    with _busy_thread(pipeline.device_id) if busy else contextlib.nullcontext():
        _run(pipeline, _WARM_UP)
        before = (order.seconds, order.calls) if order else (0.0, 0)
        begin = time.perf_counter()
        _run(pipeline, batches)
        seconds = time.perf_counter() - begin
    called = (order.seconds - before[0]) / (order.calls - before[1]) if order else 0.0
    return seconds / batches, called


def _run(pipeline: Pipeline, batches: int) -> None:
    for _ in range(batches):
        pipeline.run()
    if pipeline.device_id is not None:
        torch.cuda.synchronize(pipeline.device_id)


@contextlib.contextmanager
def _busy_thread(device_id: int | None) -> Iterator[None]:
    """Stands for training: 5 ms of Python, some matrix products on a GPU, 5 ms of sleep."""
    done = threading.Event()
    matrix = None if device_id is None else torch.ones(4096, 4096, dtype=torch.bfloat16, device=device_id)

    def work() -> None:
        while not done.is_set():
            until = time.perf_counter() + 0.005
            while time.perf_counter() < until:
                pass
            for _ in range(8 if matrix is not None else 0):
                torch.mm(matrix, matrix)
            time.sleep(0.005)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="One sub-folder of JPEG files per class.")
    add("--device", choices=("gpu", "cpu"), default="gpu", help="Where images are decoded.")
    add("--images", type=int, default=12800, help="Entries of an epoch; files come again where there are fewer.")
    add("-b", "--batch-size", type=int, default=256)
    add("-j", "--threads", type=int, default=16, help="DALI's CPU threads.")
    add("--img-size", type=int, default=224)
    add("--sources", nargs="+", choices=SOURCES[1:], default=SOURCES[1:], help="To compare with the reader.")
    add("--works", nargs="+", choices=("read", "decode"), default=("read", "decode"))
    add("--read-batches", type=int, default=100, help="Timed batches per round of a row that only reads.")
    add("--decode-batches", type=int, default=20, help="The same of one that decodes.")
    add("--rounds", type=int, default=15)
    add("--time-limit", type=float, metavar="SECONDS", help="As many of the rounds as take no longer.")
    add("--json", type=Path, metavar="FILE", help="Also write every figure here.")
    args = parser.parse_args()
    if not 0 < args.batch_size <= args.images:
        parser.error(f"--batch-size must be in [1, {args.images}], the number of images, got {args.batch_size}")
    return args


def main() -> None:
    """Time the rows in turn, and print the table."""
    args = _arguments()
    folder = scan_image_folder(args.data_dir)
    files = list(itertools.islice(itertools.cycle(folder.files), args.images))
    labels = list(itertools.islice(itertools.cycle(folder.labels), args.images))
    device_id = select_backend(args.device).device_id
    rows = {}
    for work, source in itertools.product(args.works, ("reader", *args.sources)):
        order = None if source == "reader" else Order(files, labels, args.batch_size, source)
        pipeline = _pipeline(
            files, labels, order, work, args,
            batch_size=args.batch_size, num_threads=args.threads, device_id=device_id,
        )  # fmt: skip
        pipeline.build()
        batches = args.read_batches if work == "read" else args.decode_batches
        for busy in ("", " busy"):
            rows[f"{source} {work}{busy}"] = functools.partial(_time, pipeline, order, batches, bool(busy))
    times = measure(rows, args.rounds, args.time_limit)
    seconds = {name: [value for value, _ in values] for name, values in times.items()}
    results = {
        name: {
            "ms": spread([1000 * value for value in seconds[name]]),
            "ratio": ratio(seconds[name], seconds[f"reader {name.partition(' ')[2]}"]),
            "callback_ms": spread([1000 * value for _, value in values]),
        }
        for name, values in times.items()
    }
    record = {
        "settings": vars(args) | {"data_dir": str(args.data_dir), "json": str(args.json)},
        "environment": environment(),
        "columns": COLUMNS,
        "results": results,
        "seconds": seconds,
        "lines": [f"batch {args.batch_size}, {args.threads} threads, {len(next(iter(seconds.values())))} rounds"],
    }
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    print(format_table(record))


if __name__ == "__main__":
    main()
