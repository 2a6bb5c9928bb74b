import io
import os
import socket
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy as np
import pytest
from PIL import Image

from dali_mix.errors import ConfigError, DataError
from dali_mix.loading import probe
from dali_mix.loading.probe import MAX_FILE_BYTES, Probed, probe_images
from dali_mix.loading.probe_worker import _runs
from tests.hostile import KINDS, USED, spoil_listed, write_hostile

NOISE = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)


def encoded(kind="JPEG", mode="RGB", **options):
    stream = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


JPEG, PNG = encoded(), encoded("PNG")
SETTINGS = {"device_id": None, "num_threads": 1, "batch_size": 1}


def flipped():
    data = bytearray(JPEG)
    data[-60:-40] = bytes(byte ^ 0x55 for byte in data[-60:-40])
    return bytes(data)


def jpeg_that_claims(height, width):
    data = bytearray(JPEG)
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def png_that_claims(height, width):
    data = bytearray(PNG)
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def jpeg2000_with_tiles_of_no_width():
    data = bytearray(encoded("JPEG2000"))
    at = data.index(b"\xff\x51") + 22
    data[at : at + 4] = bytes(4)
    return bytes(data)


SOUND = {
    "rgb.jpg": JPEG,
    "gray.jpg": encoded(mode="L"),
    "cmyk.jpg": encoded(mode="CMYK"),
    "progressive.jpg": encoded(progressive=True),
    "half progressive.jpg": encoded(progressive=True)[:4000],  # the whole image, with less detail
    "trailing.jpg": JPEG + b"\0" * 100,
    "flipped bytes.jpg": flipped(),
    "png.jpg": PNG,
    "palette.png": encoded("PNG", "P"),
    "alpha.png": encoded("PNG", "RGBA"),
    "x.bmp": encoded("BMP"),
    "x.webp": encoded("WEBP"),
    "x.tif": encoded("TIFF"),
    "x.ppm": encoded("PPM"),
    "new\nline.jpg": JPEG,
    os.fsdecode(b"\xff\xfe.jpg"): JPEG,
}

HOSTILE = {
    "empty.jpg": (b"", "empty file"),
    "page.jpg": (b"<!DOCTYPE html><html>", "not an image DALI can decode (it begins with '<!DOCTYPE ht')"),
    "noise.jpg": (
        b"\x01\x02\x03\x04" * 50,
        "not an image DALI can decode (it begins with bytes 01 02 03 04 01 02 03 04)",
    ),
    "one byte.jpg": (b"x", "not an image DALI can decode (it begins with 'x')"),
    "x.gif.jpg": (encoded("GIF"), "is a GIF, which DALI does not decode"),
    "x.avif.jpg": (b"\0\0\0\x20ftypavif" + bytes(50), "is an AVIF, which DALI does not decode"),
    "x.pdf.jpg": (b"%PDF-1.7 ...", "is a PDF, which DALI does not decode"),
    "x.svg.jpg": (b'<?xml version="1.0"?>\n<svg>', "is an SVG, which DALI does not decode"),
    "half.jpg": (JPEG[: len(JPEG) // 2], "truncated JPEG"),
    "all but two bytes.jpg": (JPEG[:-2], "truncated JPEG"),
    "start.jpg": (JPEG[:3], "JPEG with a damaged or truncated header"),
    "magic then noise.jpg": (b"\xff\xd8\xff\xe0" + NOISE.tobytes()[:500], "JPEG with a damaged or truncated header"),
    "half.png": (PNG[: len(PNG) // 2], "truncated PNG"),
    "wrong checksum.png": (PNG[:60] + b"\0\0\0\0" + PNG[64:], "damaged PNG"),
    "start.png": (PNG[:12], "truncated PNG"),
    "half.bmp": (encoded("BMP")[:5000], "truncated BMP"),
    "half.webp": (encoded("WEBP")[:1000], "truncated WebP"),
    "half.tif": (encoded("TIFF")[:5000], "truncated TIFF"),
    "half.ppm": (encoded("PPM")[:5000], "truncated PNM"),
    "bomb.jpg": (jpeg_that_claims(60000, 60000), "too many pixels (60000 x 60000, the limit is 179 megapixels)"),
    "bomb.png": (png_that_claims(60000, 50000), "too many pixels (50000 x 60000, the limit is 179 megapixels)"),
    "bomb.ppm": (b"P6 2000000 2000000 255\n\0\0\0", "too many pixels (2000000 x 2000000"),
    "nothing.png": (png_that_claims(0, 0), "no pixels (0 x 0)"),
    "crash.jp2.jpg": (jpeg2000_with_tiles_of_no_width(), ""),
}


def write(folder, files):
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [str(folder / name) for name in files]


def test_sound_files_decode(tmp_path):
    results = list(probe_images(write(tmp_path, SOUND)))
    assert results == [Probed(str(tmp_path / name), None, 60, 80) for name in SOUND]


def test_every_hostile_file_is_named_with_its_reason(tmp_path):
    """Each between sound ones, which must not suffer."""
    sound = write(tmp_path, {"sound.jpg": JPEG})
    hostile = write(tmp_path, {name: data for name, (data, _) in HOSTILE.items()})
    paths = [path for pair in zip(hostile, sound * len(hostile), strict=True) for path in pair]
    results = list(probe_images(paths, batch_size=7))
    assert [result.path for result in results] == paths
    assert results[1::2] == [Probed(sound[0], None, 60, 80)] * len(hostile)
    found = {os.path.basename(result.path): result.error for result in results[::2]}
    assert [name for name, error in found.items() if error is None] == []
    assert {name: error for name, error in found.items() if HOSTILE[name][1] not in error} == {}
    assert [name for name, error in found.items() if "\n" in error or len(error) > 90] == []


def test_what_is_no_readable_file_is_neither_opened_nor_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "error.jpg").symlink_to("/proc/self/mem")
    (tmp_path / "file").write_bytes(JPEG)
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    expected = {
        "fifo.jpg": "is a FIFO, not a file",
        "socket.jpg": "is a socket, not a file",
        "folder.jpg": "is a directory, not a file",
        "broken.jpg": "broken symlink",
        "loop.jpg": "symlink loop",
        "device.jpg": "is a device, not a file",
        "error.jpg": "cannot be read: Input/output error",
        "missing.jpg": "no such file",
        "file/x.jpg": "cannot be read: Not a directory",
        "large.jpg": "too large a file (1.1 GB, the limit is 1.1 GB)",
        "n" * 300: "cannot be read: File name too long",
        "nul\0.jpg": "cannot be read: embedded null byte",
    }
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket.jpg"))  # absolute, it may be too long for a socket
        results = list(probe_images([str(tmp_path / name) for name in expected]))
    assert [result.error for result in results] == list(expected.values())
    assert {(result.height, result.width) for result in results} == {(0, 0)}


def test_what_training_uses_decodes_and_what_it_replaces_does_not(tmp_path):
    paths = write_hostile(tmp_path / "class")
    spoil_listed(paths)
    named = {name: path for name, path in paths.items() if name != "directory_loop"}
    results = probe_images([str(path) for path in named.values()])
    failed = {name for name, result in zip(named, results, strict=True) if result.error}
    assert failed == {name for name in named if KINDS[name].outcome != USED}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path):
    paths = write(tmp_path, {"secret.jpg": JPEG})
    os.chmod(paths[0], 0)
    assert next(probe_images(paths)).error == "cannot be read: Permission denied"


def worker_that(does, monkeypatch):
    """The real worker, but for reading a file whose name holds "culprit"."""
    code = (
        "import os, runpy, sys, time; sys.path[:] = {path!r}; names = runpy.run_path({file!r}); read = names['_read'];"
        "names['serve'].__globals__['_read'] = lambda path, most: DOES if 'culprit' in path else read(path, most);"
        "names['serve']({fd})"
    )
    monkeypatch.setattr(probe, "_START", code.replace("DOES", does))


def test_a_crash_costs_one_file(tmp_path, monkeypatch):
    worker_that("os.abort()", monkeypatch)
    paths = write(tmp_path, dict.fromkeys(["a", "b culprit", "c", "d culprit", "e", "f", "g"], JPEG))
    errors = [result.error for result in probe_images(paths, batch_size=3)]
    crash = "crashes DALI (SIGABRT)"
    assert errors == [None, crash, None, crash, None, None, None]


def test_a_file_is_not_blamed_for_what_an_earlier_one_did(tmp_path, monkeypatch):
    worker_that(
        "(os.abort() if os.environ.get('SEEN') else os.environ.update(SEEN='1')) or read(path, most)", monkeypatch
    )
    paths = write(tmp_path, dict.fromkeys(["first culprit", "second culprit"], JPEG))
    assert [result.error for result in probe_images(paths)] == [None, None]


def test_a_file_that_takes_for_ever_is_given_up(tmp_path, monkeypatch):
    worker_that("time.sleep(1000)", monkeypatch)
    monkeypatch.setattr(probe, "FILE_TIMEOUT_S", 2)
    paths = write(tmp_path, dict.fromkeys(["a", "b culprit", "c"], JPEG))
    errors = [result.error for result in probe_images(paths)]
    assert errors == [None, "takes more than 2 s to read and decode", None]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(probe, "_PAUSE_S", 0.01)


def test_a_file_is_not_bad_because_its_process_was_killed(tmp_path, monkeypatch, quick):
    """By the system for want of memory, say; it passes."""
    marks = tmp_path / "marks"
    marks.mkdir()
    mark_and_die = f"(os.mkdir('{marks}/%d' % os.getpid()), os.kill(os.getpid(), 9))"
    kill = f"len(os.listdir('{marks}')) < 2 and {mark_and_die}"
    worker_that(f"({kill}) or read(path, most)", monkeypatch)
    paths = write(tmp_path, dict.fromkeys(["a", "b culprit", "c"], JPEG))
    assert [result.error for result in probe_images(paths)] == [None, None, None]
    assert len(os.listdir(marks)) == 2


def test_where_the_process_is_always_killed_no_file_is_judged(tmp_path, monkeypatch, quick):
    worker_that("os.kill(os.getpid(), 9)", monkeypatch)
    probing = probe_images(write(tmp_path, {"culprit": JPEG}))
    with pytest.raises(
        DataError, match=r"culprit cannot be examined: the process that decodes was killed 3 times \(SIG"
    ):
        next(probing)
    monkeypatch.setattr(probe, "_START", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(DataError, match=r"^files cannot be examined: the process that decodes was killed 3 times"):
        next(probe_images(["x.jpg"]))


def test_neither_signals_as_it_starts_nor_a_temporary_folder_decide_what_it_finds(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    signals = "import os; [os.kill(os.getpid(), number) for number in (1, 2, 3, 10, 12, 15)]; "
    monkeypatch.setattr(probe, "_START", signals + probe._START)
    assert next(probe_images(write(tmp_path, {"a": JPEG}))).error is None


def test_time_in_which_it_is_suspended_does_not_count(tmp_path, monkeypatch):
    """As with a job that is suspended, or a container that is paused."""
    worker_that("(subprocess.Popen(['sh', '-c', 'sleep 3; kill -CONT %d' % os.getpid()]), "
                "os.kill(os.getpid(), 19)) and read(path, most)".replace("subprocess", "__import__('subprocess')"),
                monkeypatch)  # fmt: skip
    monkeypatch.setattr(probe, "FILE_TIMEOUT_S", 2)
    assert next(probe_images(write(tmp_path, {"culprit": JPEG}))).error is None


def test_it_ends_with_the_process_that_asked_also_in_the_middle_of_a_file(tmp_path, monkeypatch):
    worker_that("time.sleep(1000)", monkeypatch)
    workers = probe._Workers((probe._serialize(None, SETTINGS), probe._serialize("cpu", SETTINGS)), SETTINGS)
    workers.send(write(tmp_path, {"culprit": JPEG}))
    workers._worker._connection.close()  # as by SIGKILL
    assert workers._worker._process.wait(10) == 1
    workers.close()


def test_where_dali_does_not_start_it_says_so(monkeypatch):
    monkeypatch.setattr(probe, "_START", "raise SystemExit('no such device')")
    with pytest.raises(DataError, match="DALI cannot be started: no such device"):
        next(probe_images(["x.jpg"]))


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()


def test_the_process_ends_with_the_generator(tmp_path):
    before = children()
    probing = probe_images(write(tmp_path, {"a": JPEG, "b": JPEG}), batch_size=1)
    next(probing)
    assert len(children()) == len(before) + 1
    probing.close()
    assert children() == before


def test_no_files_start_nothing():
    assert list(probe_images([])) == []


@pytest.mark.parametrize("options", [{"num_threads": 0}, {"batch_size": 0}, {"device": "cuda"}])
def test_settings_out_of_range_are_refused_at_once(options):
    with pytest.raises(ConfigError, match=r"at least 1, got|device must be"):
        probe_images([], **options)


def test_codecs_leave_standard_error_alone(tmp_path):
    """In a process of its own: pytest would not see what C code writes."""
    paths = write(tmp_path, {"flipped.jpg": flipped(), "half.jpg": JPEG[:2000], "half.png": PNG[:2000]})
    code = f"from dali_mix.loading.probe import probe_images; print([p.error for p in probe_images({paths!r})])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[None, 'truncated JPEG', 'truncated PNG']\n"
    assert result.stderr == ""


def test_batches_are_cut_by_size():
    assert list(_runs([3, 3, 3, 9, 1, 1], 6)) == [(0, 2), (2, 3), (3, 4), (4, 6)]
    assert list(_runs([7], 6)) == [(0, 1)]
    assert list(_runs([], 6)) == []


def test_memory_is_that_of_the_largest_image_not_of_a_batch(tmp_path):
    """Eight images of 100 megapixels are 2.4 GB when decoded together."""
    stream = io.BytesIO()
    Image.new("L", (10_000, 10_000)).save(stream, "PNG")
    paths = write(tmp_path, {f"{number}.png": stream.getvalue() for number in range(8)})
    code = (
        "import resource, sys; from dali_mix.loading.probe import probe_images\n"
        f"assert all(p.error is None for p in probe_images({paths!r}))\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 1_500_000  # kB
