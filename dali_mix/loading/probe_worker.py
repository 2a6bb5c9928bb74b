"""The process behind ``probe_images``: reads files, and decodes them with DALI.

It is run by its path and must not import the package, which would take seconds.
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import stat
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from nvidia.dali.pipeline import Pipeline

_BATCH_BYTES = 128 << 20
"""Encoded bytes in one batch, unless a single file has more."""

_SMALLEST_IMAGE = b"P6 1 1 255\n\0\0\0"
"""A PPM of one pixel, to see whether a pipeline still works."""

_MAGIC = (
    (rb"GIF8[79]a", "a GIF"),
    (rb"....ftyp(avif|avis)", "an AVIF"),
    (rb"....ftyp(heic|heix|hevc|mif1|msf1)", "a HEIC"),
    (rb"....ftyp", "a video"),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "a JPEG XL"),
    (rb"8BPS", "a Photoshop file"),
    (rb"\0\0\x01\0", "an icon"),
    (rb"%PDF", "a PDF"),
    (rb"\s*(<\?xml[^>]*>\s*)?<svg", "an SVG"),
    (rb"PK\x03\x04", "a zip archive"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb"\x93NUMPY", "a NumPy array"),
)
"""How files that DALI has no decoder for begin."""

_DECODABLE = (
    (rb"\xff\xd8", "JPEG"),
    (rb"\x89PNG", "PNG"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"BM", "BMP"),
    (rb"II\*\0|MM\0\*", "TIFF"),
    (rb"P[1-6]\s", "PNM"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
)
"""How files begin that DALI decodes where they are whole."""

_TRUNCATED = re.compile(
    r"premature end|not enough image data|unexpected end|read error at|seek failed|inconsistent with stream length|"
    r"stream size is not big enough",
    re.IGNORECASE,
)
"""What codecs write to stderr when the data end too early."""


class Limits(NamedTuple):
    """The limits of ``dali_mix.fn.image.limits``, which this process cannot import."""

    max_pixels: int
    max_bytes: int


Result = tuple[str | None, int, int]
"""Error, height, width."""


class _Source(NamedTuple):
    """A file before it is decoded: its bytes, or what is wrong."""

    data: np.ndarray | None
    error: str | None


def serve(fd: int) -> None:
    """Take the pipelines, then answer every list of paths with a list of results, until the other side closes.

    Args:
        fd: of the connection.
    """
    # Ctrl-C and a cluster's warnings reach the whole group; the other side ends this process.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    # It need not finish what nobody waits for any more.
    threading.Thread(target=_end_with_the_other_side, args=(fd,), daemon=True).start()
    with Connection(fd) as connection:
        graphs, settings, limits = connection.recv()
        with ThreadPoolExecutor(settings["num_threads"]) as readers:
            peek, decode = (_Shapes(graph, settings) for graph in graphs)
            prober = _Prober(peek, decode, readers, Limits(*limits))
            connection.send("ready")
            while True:
                try:
                    paths = connection.recv()
                except EOFError:
                    return
                connection.send(prober.probe_files(paths))


def _end_with_the_other_side(fd: int) -> None:
    hangup = select.poll()
    hangup.register(fd, 0)
    hangup.poll()
    os._exit(1)


class _Prober:
    """Reads files, looks at their headers, and decodes those that are fit for it."""

    def __init__(self, peek: _Shapes, decode: _Shapes, readers: ThreadPoolExecutor, limits: Limits) -> None:
        self._peek, self._decode, self._readers, self._limits = peek, decode, readers, limits

    def probe_files(self, paths: Sequence[str | np.ndarray]) -> list[Result]:
        """Return one result per path, or bytes, in order."""
        os.ftruncate(2, 0)  # codecs have warned of earlier files; it may lie in memory
        os.lseek(2, 0, os.SEEK_SET)
        results: list[Result] = []
        most = self._limits.max_bytes
        sizes = [min(size, most) for size in self._readers.map(_file_size, paths)]
        for start, stop in _runs(sizes, _BATCH_BYTES):
            results += self._probe_batch(list(self._readers.map(partial(_read, most=most), paths[start:stop])))
        return results

    def _probe_batch(self, sources: Sequence[_Source]) -> list[Result]:
        results: list[Result] = [(source.error, 0, 0) for source in sources]
        found = [(index, source.data) for index, source in enumerate(sources) if source.data is not None]
        headers = self._peek.each([data for _, data in found])
        sound: list[tuple[int, np.ndarray]] = []
        for (index, data), header in zip(found, headers, strict=True):
            results[index] = _judge_header(data, header, self._limits.max_pixels)
            if results[index][0] is None:
                sound.append((index, data))
        pixels = [results[index][1] * results[index][2] for index, _ in sound]
        for start, stop in _runs(pixels, self._limits.max_pixels):
            part = sound[start:stop]
            for (index, data), shape in zip(part, self._decode.each([data for _, data in part]), strict=True):
                if isinstance(shape, str):
                    results[index] = (_explain(data, shape, whole_header=True), *results[index][1:])
        return results


class _Shapes:
    """A pipeline from encoded bytes to shapes, which goes on after a file that cannot be decoded.

    Args:
        graph: the serialized pipeline.
        settings: its device, threads and batch size.
    """

    def __init__(self, graph: bytes, settings: dict[str, Any]) -> None:
        self._graph, self._settings = graph, settings
        self._pipeline = self._build()

    def _build(self) -> Pipeline:
        # The other executor, which deserialize would take, does not survive a file that cannot be decoded.
        pipeline = Pipeline.deserialize(self._graph, **self._settings, prefetch_queue_depth=1, exec_dynamic=True)
        pipeline.build()
        return pipeline

    def each(self, images: Sequence[np.ndarray]) -> list[tuple[int, int] | str]:
        """Return height and width of each image, or what DALI and the codec said of one that fails."""
        if not images:
            return []
        try:
            return list(self._run(images))
        except RuntimeError:
            self._repair()
            return [self._alone(image) for image in images]

    def _alone(self, image: np.ndarray) -> tuple[int, int] | str:
        os.ftruncate(2, 0)
        os.lseek(2, 0, os.SEEK_SET)
        try:
            return self._run([image])[0]
        except RuntimeError as error:
            said = os.pread(2, 10_000, 0).decode(errors="replace")
            self._repair()
            return f"{said}\n{error}"

    def _run(self, images: Sequence[np.ndarray]) -> list[tuple[int, int]]:
        self._pipeline.feed_input("jpegs", list(images))
        shapes: Any
        (shapes,) = self._pipeline.run()
        return [(int(shape[0]), int(shape[1])) for shape in map(np.array, shapes)]

    def _repair(self) -> None:
        """DALI's message says that the pipeline is no longer valid; its default executor does go on."""
        smallest = np.frombuffer(_SMALLEST_IMAGE, np.uint8)
        try:
            self._run([smallest])
        except RuntimeError:
            self._pipeline = self._build()
            self._run([smallest])


def _runs(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Cut a sequence into runs whose sizes sum to no more than ``most``; a larger one stands alone."""
    start, total = 0, 0
    for index, size in enumerate(sizes):
        if index > start and total + size > most:
            yield start, index
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield start, len(sizes)


def _file_size(path: str | np.ndarray) -> int:
    if not isinstance(path, str):
        return len(path)
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0


def _read(path: str | np.ndarray, most: int) -> _Source:
    if not isinstance(path, str):
        if len(path) > most:
            return _Source(None, f"too large a file ({len(path) / 1e9:.1f} GB, the limit is {most / 1e9:.1f} GB)")
        return _Source(path, None) if len(path) else _Source(None, "empty file")
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # opening a FIFO would wait for its other end
            return _Source(None, f"is {_name_kind(mode)}, not a file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                return _Source(None, f"too large a file ({size / 1e9:.1f} GB, the limit is {most / 1e9:.1f} GB)")
            data = np.frombuffer(file.read(most), np.uint8)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return _Source(None, _name_error(path, error))
    return _Source(data, None) if len(data) else _Source(None, "empty file")


def _name_kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return name
    return "a device"


def _name_error(path: str, error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return f"cannot be read: {error}"
    if error.errno == errno.ENOENT:
        return "broken symlink" if os.path.islink(path) else "no such file"
    if error.errno == errno.ELOOP:
        return "symlink loop"
    return f"cannot be read: {error.strerror}"


def _judge_header(data: np.ndarray, header: tuple[int, int] | str, most: int) -> Result:
    if isinstance(header, str):
        return _explain(data, header, whole_header=False), 0, 0
    height, width = header
    if height * width > most:
        return f"too many pixels ({width} x {height}, the limit is {most / 1e6:.0f} megapixels)", *header
    if height < 1 or width < 1:
        return f"no pixels ({width} x {height})", 0, 0
    return None, height, width


def _explain(data: np.ndarray, said: str, *, whole_header: bool) -> str:
    """One line for a user, from the first bytes and what the codec said."""
    head = data[:512].tobytes()
    for pattern, name in _DECODABLE:
        if re.match(pattern, head, re.DOTALL):
            cut = _is_cut(name, data) or _TRUNCATED.search(said)
            if whole_header or (cut and name != "JPEG"):  # a JPEG without an end may as well be another thing
                return f"truncated {name}" if cut else f"damaged {name}"
            return f"{name} with a damaged or truncated header"
    for pattern, name in _MAGIC:
        if re.match(pattern, head, re.DOTALL):
            return f"is {name}, which DALI does not decode"
    return f"not an image DALI can decode (it begins with {_quote(head[:12])})"


def _is_cut(name: str, data: np.ndarray) -> bool:
    """Whether a file ends before the end that its format marks or announces."""
    if name in ("WebP", "BMP"):
        at, more = (4, 8) if name == "WebP" else (2, 0)
        return int.from_bytes(data[at : at + 4].tobytes(), "little") + more > len(data)
    end = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(name, b"")
    return end not in data[-1024:].tobytes()  # some programs append a little


def _quote(head: bytes) -> str:
    text = head.decode("ascii", errors="replace")
    return repr(text) if all(" " <= char <= "~" or char in "\r\n\t" for char in text) else f"bytes {head[:8].hex(' ')}"
