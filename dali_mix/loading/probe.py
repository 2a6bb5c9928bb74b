"""Finds the files that DALI cannot decode, without a training run."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from multiprocessing.connection import Pipe
from typing import NamedTuple, TypeAlias

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from dali_mix import native
from dali_mix.errors import ConfigError, DataError
from dali_mix.fn.image.decode import decode_images
from dali_mix.fn.image.limits import MAX_FILE_BYTES, MAX_IMAGE_PIXELS
from dali_mix.helpers import scratch_file, start_helper
from dali_mix.loading import probe_worker
from dali_mix.loading.device import Backend, select_backend

_TRIES, _PAUSE_S = 3, 2.0
"""Tries of a process that is killed from outside, as by a system without memory: that says nothing of any file."""

FILE_TIMEOUT_S = 120
"""A file, or a batch of files, that takes longer than this to read and decode is given up."""

_START = "import runpy, sys; sys.path[:] = {path!r}; runpy.run_path({file!r})['serve']({fd})"
"""Runs the worker's file as it is: importing the package would import PyTorch, and triple the time."""

_KILLED = (
    "the process that decodes was killed {count} times (SIGKILL), as the system does when memory runs out; "
    "free some, with fewer threads or smaller batches"
)

_Graphs = tuple[bytes, bytes]
_Image: TypeAlias = str | np.ndarray
_Settings = dict[str, int | None]


class Probed(NamedTuple):
    """What DALI made of one file.

    Fields:
        path: as given, "" for an image given as bytes.
        error: None if DALI decodes it, else the reason in one short line.
        height, width: in pixels as stored, without the EXIF orientation; 0 where unknown.
    """

    path: str
    error: str | None
    height: int
    width: int


def probe_images(
    images: Sequence[_Image],
    *,
    device: str = "cpu",
    device_id: int = 0,
    num_threads: int = 2,
    batch_size: int = 64,
) -> Generator[Probed, None, None]:
    """Decode whole images with the decoder that training uses, and say of each file whether it works.

    No file stops it: what is missing, is no regular file, cannot be read, or is damaged gets an ``error``; so does
    one that is larger than ``MAX_FILE_BYTES``, has more than ``MAX_IMAGE_PIXELS``, takes longer than
    ``FILE_TIMEOUT_S``, or crashes DALI.  Files with flipped bytes that the codec only warns about do decode.
    The work is done in a process of its own, which may crash without harm; it starts with the first file, in
    about a second, and ends with the last one or with the generator's ``close()``.

    Args:
        images: paths of files, relative ones begin at the working directory; or the bytes of some, uint8 (bytes,).
        device: "gpu" decodes as training on a GPU does, "cpu" as on a CPU; without a GPU, "gpu" means "cpu".
        device_id: which GPU.
        num_threads: that read and decode, at least 1.
        batch_size: most files in one DALI batch; large files make smaller batches, so that memory stays bounded.

    Returns:
        a generator of one ``Probed`` per image, in the order of ``images``.

    Raises:
        ConfigError: for a setting out of range.
        DataError: while iterating, if DALI does not work at all, as on a GPU that it does not support.
    """
    if min(num_threads, batch_size) < 1:
        raise ConfigError(f"num_threads and batch_size must be at least 1, got {num_threads} and {batch_size}")
    return _probe(images, select_backend(device, device_id), num_threads, batch_size)


def _probe(
    images: Sequence[_Image], backend: Backend, num_threads: int, batch_size: int
) -> Generator[Probed, None, None]:
    settings: _Settings = {"device_id": backend.device_id, "num_threads": num_threads, "batch_size": batch_size}
    graphs = _serialize(None, settings), _serialize(backend.decoder, settings)
    # One by one, as the bytes of all may be more than fit into memory.
    batches = (list(images[start : start + batch_size]) for start in range(0, len(images), batch_size))
    with _Workers(graphs, settings) as workers:
        batch = next(batches, None)
        if batch is not None:
            workers.send(batch)
        while batch is not None:
            try:
                results = workers.receive(batch)
            except _WorkerDied:
                results = []
                # One of these files did it: each alone tells which.
                for image in batch:
                    yield workers.probe_alone(image)
            batch = next(batches, None)
            if batch is not None:
                workers.send(batch)  # it decodes these while the caller looks at those
            yield from results


def _serialize(decoder: str | None, settings: _Settings) -> bytes:
    """A pipeline from encoded bytes to shapes; without a decoder, it reads the headers only."""
    pipeline = Pipeline(**settings)
    # The worker is without the package, and so knows only DALI's own operators.
    with native.using("off"), pipeline:
        jpegs = fn.external_source(name="jpegs", dtype=types.UINT8, ndim=1)
        if decoder is None:
            shapes = fn.peek_image_shape(jpegs, adjust_orientation=False)
        else:
            shapes = decode_images(jpegs, decoder=decoder).shape()
        pipeline.set_outputs(shapes)
    return bytes(pipeline.serialize())


class _WorkerDied(Exception):
    """The message is what a user is told of the file that did it."""


class _WorkerKilled(_WorkerDied):
    """No file did it: SIGKILL comes from another process, or from the system when memory is short."""


class _Workers:
    """One worker at a time, and after its death another one.

    Args:
        graphs, settings: as in ``_Worker``.
    """

    def __init__(self, graphs: _Graphs, settings: _Settings) -> None:
        self._graphs, self._settings = graphs, settings
        self._worker: _Worker | None = None
        self._fresh = False

    def send(self, images: list[_Image]) -> None:
        """Let the worker begin with these files; starts one if there is none."""
        self._fresh = self._worker is None
        if self._worker is None:
            self._worker = self._start()
        self._worker.send(images)

    def _start(self) -> _Worker:
        for _ in range(_TRIES):
            try:
                return _Worker(self._graphs, self._settings)
            except _WorkerKilled:
                time.sleep(_PAUSE_S)
        raise DataError(f"files cannot be examined: {_KILLED.format(count=_TRIES)}")

    def receive(self, images: list[_Image]) -> list[Probed]:
        """Return one result for each file that was sent.

        Raises:
            _WorkerDied: when the worker crashed or hung.
        """
        try:
            return self._worker.receive(images) if self._worker else []
        except _WorkerDied:
            self.close()
            raise

    def probe_alone(self, image: _Image) -> Probed:
        """Return one file's result, also when the file is the death of a worker.

        Raises:
            DataError: if another process, or the system, kills each worker that is at work on it.
        """
        killed = 0
        while killed < _TRIES:
            self.send([image])
            try:
                return self.receive([image])[0]
            except _WorkerKilled:
                killed += 1
                time.sleep(_PAUSE_S)
            except _WorkerDied as death:
                # A worker that has seen other files may die of what one of those did to its memory.
                if self._fresh:
                    return Probed(_path(image), str(death), 0, 0)
        raise DataError(
            f"{_path(image) or 'an image'} cannot be examined: {_KILLED.format(count=killed)}, or leave the file out"
        )

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
        self._worker = None

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Worker:
    """A process that decodes the files whose paths it is sent.

    Args:
        graphs: two serialized pipelines, which read headers and decode.
        settings: of both pipelines.
    """

    def __init__(self, graphs: _Graphs, settings: _Settings) -> None:
        try:
            self._process = self._open()
        except OSError as error:  # no more processes, or files, are allowed
            raise DataError(f"files cannot be examined: no process can be started for it: {error.strerror}") from error
        try:
            self._connection.send((graphs, settings, (MAX_IMAGE_PIXELS, MAX_FILE_BYTES)))
            self._connection.recv()  # it is ready
        except (EOFError, OSError):
            code = self._process.wait()
            self._stderr.seek(0)
            lines = self._stderr.read().decode(errors="replace").strip().splitlines()
            self.close()
            if code == -signal.SIGKILL:
                raise _WorkerKilled(_name_exit(code)) from None
            raise DataError(f"DALI cannot be started: {lines[-1] if lines else 'it said nothing'}") from None
        except BaseException:
            self.close()
            raise

    def _open(self) -> subprocess.Popen:
        # Codecs write warnings to file descriptor 2, which belong neither into a progress bar nor into a log.
        self._stderr = scratch_file()
        self._connection, theirs = Pipe()
        with theirs:
            code = _START.format(path=sys.path, file=probe_worker.__file__, fd=theirs.fileno())
            return start_helper(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=[theirs.fileno()],
            )

    def send(self, images: list[_Image]) -> None:
        """Let it begin with these files."""
        with contextlib.suppress(OSError):  # it has died: receive says so
            self._connection.send(images)

    def receive(self, images: list[_Image]) -> list[Probed]:
        """Return one result for each file that was sent.

        Raises:
            _WorkerDied: when the process crashed or hung.
        """
        try:
            if self._answers():
                results = self._connection.recv()
                return [Probed(_path(image), *result) for image, result in zip(images, results, strict=True)]
        except (EOFError, OSError):
            code = self._process.wait()
            died = _WorkerKilled if code == -signal.SIGKILL else _WorkerDied
            raise died(f"crashes DALI ({_name_exit(code)})") from None
        raise _WorkerDied(f"takes more than {FILE_TIMEOUT_S} s to read and decode")

    def _answers(self) -> bool:
        """Wait for an answer, but not for ever."""
        # By the second: time in which both processes are suspended, as with a job or a container, is not a file's.
        waited = 0
        while waited < FILE_TIMEOUT_S:
            if self._connection.poll(1):
                return True
            waited += not _is_suspended(self._process.pid)
        return False

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._stderr.close()


def _path(image: _Image) -> str:
    return image if isinstance(image, str) else ""


def _is_suspended(pid: int) -> bool:
    """Whether a process has got SIGSTOP or the like."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in (b"T", b"t")
    except OSError:
        return False


def _name_exit(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"
