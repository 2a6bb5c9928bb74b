"""Files that image folders really hold, or could: what each is, and what becomes of it.

``write_hostile`` writes one of each into a folder; ``spoil_listed`` then does what happens to files after listing.
"""

import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

from pipelines.imagenet import imagenet_train, imagenet_val
from tests.sections import VALIDATION, sectioned

USED, REPLACED, NOT_LISTED = "used", "replaced", "not listed"


class Kind(NamedTuple):
    """What a file is, what becomes of it, its name, and how it is written there.

    ``levels_off``: how far what is used is from PIL's ``convert("RGB")``, on average over the pixels of ``photo()``.
    """

    what: str
    outcome: str
    name: str
    write: Callable[[Path], object]
    spoil: Callable[[Path], object] | None = None
    levels_off: int = 0


def photo(mode="RGB", size=(160, 120), seed=7):
    """Smooth and detailed, so that codecs have something to do."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)).astype(int)
    pixels = np.clip(pixels + rng.integers(-9, 10, pixels.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image=None, kind="JPEG", **options):
    buffer = io.BytesIO()
    (image or photo()).save(buffer, kind, **options)
    return buffer.getvalue()


def saved(image=None, kind="JPEG", **options):
    return lambda path: path.write_bytes(encoded(image, kind, **options))


def raw(data):
    return lambda path: path.write_bytes(data)


def truncated(share):
    data = encoded()
    return raw(data[: int(len(data) * share)])


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(exif=exif)


def frames(kind):
    return saved(photo(), kind, save_all=True, append_images=[photo(seed=8), photo(seed=9)])


def flipped_bytes():
    """Forty bytes of the compressed data, none of them a marker's 0xFF before or after."""
    data = bytearray(encoded(quality=90))
    rng = random.Random(3)
    body = range(len(data) // 2, len(data) - 100)
    for place in rng.sample([at for at in body if 0xFF not in data[at - 1 : at + 2]], 40):
        data[place] ^= 1 << rng.randrange(3)
    return raw(bytes(data))


def deep_rgb_png():
    """RGB with 16 bits a channel, which PIL cannot write."""
    pixels = (np.asarray(photo()).astype(">u2") * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return raw(png(pixels.shape[1], pixels.shape[0], 16, 2, zlib.compress(rows)))


def png(width, height, depth, color, data):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg_bomb(side):
    """A JPEG of a few kilobytes that claims to be huge."""
    data = bytearray(encoded())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    return raw(bytes(data))


def png_bomb(side):
    """A whole and valid PNG of one bit a pixel, all black."""
    squeezer = zlib.compressobj()
    rows = bytes(1 + side // 8)
    data = b"".join(squeezer.compress(rows) for _ in range(side)) + squeezer.flush()
    return raw(png(side, side, 1, 0, data))


def bare_cmyk():
    """A CMYK JPEG without the marker by which decoders know whether its values are inverted."""
    data = encoded(photo("CMYK"))
    at = data.index(b"\xff\xee")
    (size,) = struct.unpack(">H", data[at + 2 : at + 4])
    return raw(data[:at] + data[at + 2 + size :])


def pnm(maximum):
    """A PPM whose brightest value is ``maximum``."""
    image = photo()
    values = np.asarray(image).astype(int) * maximum // 255
    header = b"P6 %d %d %d\n" % (*image.size, maximum)
    return raw(header + values.astype(np.uint8 if maximum < 256 else ">u2").tobytes())


def bmp_16(masks):
    """A BMP of 16 bits a pixel: 5, 6 and 5 of them with ``masks``, else 5 each."""
    pixels = np.asarray(photo())[::-1].astype(np.uint16)
    green = 6 if masks else 5
    values = pixels[..., 0] >> 3 << 5 + green | pixels[..., 1] >> 8 - green << 5 | pixels[..., 2] >> 3
    data = values.astype("<u2").tobytes()
    extra = struct.pack("<III", 0xF800, 0x7E0, 0x1F) if masks else b""
    height, width = values.shape
    header = (40, width, height, 1, 16, 3 if masks else 0, len(data), 0, 0, 0, 0)
    at = 54 + len(extra)
    return raw(
        b"BM" + struct.pack("<IHHI", at + len(data), 0, 0, at) + struct.pack("<IiiHHIIiiII", *header) + extra + data
    )


def lab():
    to_lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return saved(ImageCms.profileToProfile(photo(), *to_lab, outputMode="LAB"), "TIFF")


def with_alpha(mode):
    """Half transparent."""
    image = photo(mode[:-1])
    image.putalpha(77)
    return image


def become_directory(path):
    path.unlink()
    path.mkdir()


def unreadable(path):
    path.write_bytes(encoded())
    path.chmod(0)


def link_up(path):
    path.symlink_to(path.parent, target_is_directory=True)


HTML = b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>\n" * 40
GRADIENT = (np.add.outer(np.arange(120), np.arange(160)) * 230).astype(np.uint16)

KINDS = {
    "empty": Kind("0 bytes", REPLACED, "empty.jpg", raw(b"")),
    "cut_at_2_bytes": Kind("a JPEG's first 2 bytes", REPLACED, "cut_2.jpg", raw(encoded()[:2])),
    "cut_at_20_bytes": Kind("a JPEG's first 20 bytes", REPLACED, "cut_20.jpg", raw(encoded()[:20])),
    "cut_in_tables": Kind("a JPEG cut in its tables", REPLACED, "cut_tables.jpg", raw(encoded()[:100])),
    "cut_in_frame": Kind("a JPEG cut in its frame header", REPLACED, "cut_frame.jpg", raw(encoded()[:165])),
    "cut_at_10": Kind("the first 10 % of a JPEG", REPLACED, "cut_10.jpg", truncated(0.1)),
    "cut_at_25": Kind("the first 25 % of a JPEG", REPLACED, "cut_25.jpg", truncated(0.25)),
    "cut_at_50": Kind("the first 50 % of a JPEG", REPLACED, "cut_50.jpg", truncated(0.5)),
    "cut_at_75": Kind("the first 75 % of a JPEG", REPLACED, "cut_75.jpg", truncated(0.75)),
    "cut_at_99": Kind("the first 99 % of a JPEG", REPLACED, "cut_99.jpg", truncated(0.99)),
    "no_end_marker": Kind("a JPEG without its last 2 bytes", REPLACED, "no_end.jpg", raw(encoded()[:-2])),
    "cut_png": Kind("the first half of a PNG", REPLACED, "cut.png", raw(encoded(kind="PNG")[:20000])),
    "html": Kind("HTML named .jpg", REPLACED, "html.jpg", raw(HTML)),
    "text": Kind("text named .jpg", REPLACED, "text.jpg", raw(b"not an image\n")),
    "random": Kind("random bytes", REPLACED, "random.jpg", raw(random.Random(1).randbytes(5000))),
    "random_after_magic": Kind(
        "random bytes after a JPEG's first 3",
        REPLACED,
        "magic.jpg",
        raw(b"\xff\xd8\xff" + random.Random(2).randbytes(5000)),
    ),
    "gif": Kind("GIF named .jpg", REPLACED, "gif.jpg", saved(kind="GIF")),
    "animated_gif": Kind("animated GIF named .jpg", REPLACED, "animated_gif.jpg", frames("GIF")),
    "jpeg_bomb": Kind("a JPEG header of 60000 x 60000", REPLACED, "bomb.jpg", jpeg_bomb(60000)),
    "jpeg_half_bomb": Kind("a JPEG header of 30000 x 30000", REPLACED, "bomb2.jpg", jpeg_bomb(30000)),
    "png_bomb": Kind("a valid PNG of 30000 x 30000", REPLACED, "bomb.png", png_bomb(30000)),
    "broken_symlink": Kind("symlink to nothing", REPLACED, "broken.jpg", lambda path: path.symlink_to("nowhere.jpg")),
    "symlink_loop": Kind("symlink to itself", REPLACED, "loop.jpg", lambda path: path.symlink_to(path.name)),
    "vanished": Kind("deleted after listing", REPLACED, "vanished.jpg", saved(), Path.unlink),
    "emptied": Kind("emptied after listing", REPLACED, "emptied.jpg", saved(), raw(b"")),
    "became_directory": Kind("a directory since listing", REPLACED, "became.jpg", saved(), become_directory),
    "unreadable": Kind("no permission to read", REPLACED, "unreadable.jpg", unreadable),
    "fifo": Kind("FIFO", NOT_LISTED, "fifo.jpg", os.mkfifo),
    "symlink_to_fifo": Kind("symlink to a FIFO", NOT_LISTED, "to_fifo.jpg", lambda path: path.symlink_to("fifo.jpg")),
    "directory": Kind("directory named .jpg", NOT_LISTED, "directory.jpg", Path.mkdir),
    "directory_loop": Kind("symlink to the folder it lies in", NOT_LISTED, "up", link_up),
    "svg": Kind("other file types", NOT_LISTED, "drawing.svg", raw(b"<svg/>")),
    "cmyk": Kind("CMYK JPEG", USED, "cmyk.jpg", saved(photo("CMYK"))),
    "gray": Kind("gray JPEG", USED, "gray.jpg", saved(photo("L"))),
    "progressive": Kind("progressive JPEG", USED, "progressive.jpg", saved(progressive=True)),
    "png_named_jpeg": Kind("PNG named .JPEG", USED, "png.JPEG", saved(kind="PNG")),
    "rgb_16_bit_png": Kind("RGB PNG of 16 bits a channel", USED, "rgb16.png", deep_rgb_png()),
    "gray_16_bit_png": Kind(
        "gray PNG, TIFF or JPEG 2000 of 16 bits, scaled to 8 (PIL clips; 131 levels off)",
        USED,
        "gray16.png",
        saved(Image.fromarray(GRADIENT), "PNG"),
        levels_off=131,
    ),
    "bare_cmyk": Kind(
        "CMYK JPEG without an Adobe marker: all black (134 levels off)", USED, "bare_cmyk.jpg", bare_cmyk(), None, 134
    ),
    "pnm_100": Kind("PNM with a maximum of 100, not scaled (81 levels off)", USED, "m100.ppm", pnm(100), None, 81),
    "pnm_4095": Kind(
        "PNM with a maximum of 4095, not scaled (126 levels off)", USED, "m4095.ppm", pnm(4095), None, 126
    ),
    "float_tiff": Kind(
        "gray TIFF of floats in 0 .. 255: all white (128 levels off)",
        USED,
        "float.tif",
        saved(Image.fromarray(np.asarray(photo("L")).astype(np.float32)), "TIFF"),
        levels_off=128,
    ),
    "lab_tiff": Kind("LAB TIFF (12 levels off)", USED, "lab.tif", lab(), None, 12),
    "gray_alpha_tiff": Kind(
        "gray TIFF with alpha, mixed with black (20 levels off)",
        USED,
        "la.tif",
        saved(with_alpha("LA"), "TIFF"),
        None,
        20,
    ),
    "turned_tiff": Kind(
        "TIFF with an orientation, which PIL applies (74 levels off)",
        USED,
        "turned.tif",
        saved(kind="TIFF", tiffinfo={274: 3}),
        levels_off=74,
    ),
    "bmp_565": Kind(
        "BMP of 16 bits a pixel, not scaled to 255 (3 levels off)", USED, "b565.bmp", bmp_16(True), None, 3
    ),
    "ycc_jp2": Kind(
        "JPEG 2000 of YCbCr (7 levels off)", USED, "ycc.jp2.jpg", saved(photo("YCbCr"), "JPEG2000"), None, 7
    ),
    "rgb_jpeg": Kind("JPEG of RGB, not YCbCr", USED, "rgb.jpg", saved(keep_rgb=True)),
    "jpeg_2000": Kind("JPEG 2000 named .jpg", USED, "jp2.jpg", saved(kind="JPEG2000")),
    "cmyk_tiff": Kind("CMYK TIFF", USED, "cmyk.tif", saved(photo("CMYK"), "TIFF")),
    "profile": Kind(
        "ICC profile, not applied",
        USED,
        "profile.jpg",
        saved(icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
    ),
    "bit_tiff": Kind("TIFF of 1 bit a pixel, not compressed", REPLACED, "bit.tif", saved(photo("1"), "TIFF")),
    "bmp_555": Kind("BMP of 15 bits a pixel", REPLACED, "b555.bmp", bmp_16(False)),
    "gray_alpha_jp2": Kind(
        "JPEG 2000 of gray and alpha, or of CMYK", REPLACED, "la.jp2.jpg", saved(with_alpha("LA"), "JPEG2000")
    ),
    "palette_png": Kind("palette PNG", USED, "palette.png", saved(photo("P"), "PNG")),
    "rgba_png": Kind("RGBA PNG, the alpha dropped", USED, "rgba.png", saved(photo("RGBA"), "PNG")),
    "bmp": Kind("BMP", USED, "image.bmp", saved(kind="BMP")),
    "tiff": Kind("TIFF", USED, "image.tiff", saved(kind="TIFF")),
    "webp": Kind("WebP", USED, "image.webp", saved(kind="WEBP")),
    "animated_webp": Kind("animated WebP, its first frame", USED, "animated.webp", frames("WEBP")),
    "one_pixel": Kind("1 x 1 pixel", USED, "one_pixel.jpg", saved(photo(size=(1, 1)))),
    "wide": Kind("20000 x 1 pixels", USED, "wide.jpg", saved(photo(size=(20000, 1)))),
    "tall": Kind("1 x 20000 pixels", USED, "tall.jpg", saved(photo(size=(1, 20000)))),
    "exif_rotated": Kind("JPEG with an EXIF rotation, not applied", USED, "exif.jpg", rotated()),
    "flipped_bytes": Kind("JPEG with flipped bits in its data", USED, "flipped.jpg", flipped_bytes()),
    "trailing_garbage": Kind("bytes after a JPEG's end", USED, "trailing.jpg", raw(encoded() + b"\0garbage" * 99)),
    "unicode_name": Kind("unicode and spaces in the name", USED, "größe 写真 \N{HONEYBEE} .jpg", saved()),
    "symlink": Kind("symlink to an image", USED, "symlink.jpg", lambda path: path.symlink_to("gray.jpg")),
}
"""By name; those of one folder, in this order."""

if os.geteuid() == 0:  # root reads everything
    del KINDS["unreadable"]

ONLY_SOME_CROPS = {"cut_at_25", "cut_at_50", "cut_at_75", "cut_at_99", "no_end_marker"}
"""Kinds that a random crop may survive, and the whole image does not."""


def write_hostile(folder: Path) -> dict[str, Path]:
    """Write one file of each kind into ``folder``, created if missing; the path of each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS.values():
        kind.write(folder / kind.name)
    return {name: folder / kind.name for name, kind in KINDS.items()}


def spoil_listed(paths: dict[str, Path]) -> None:
    """Do to the files what happens to some after they have been listed."""
    for name, path in paths.items():
        spoil = KINDS[name].spoil
        if spoil is not None:
            spoil(path)


CLASSES, PER_CLASS = 4, 9
CHOICES = {"cutmix": 0.4, "mixup": 0.3, "smmix": 0.2}


def write_good(root: Path) -> Path:
    """An image folder without a bad file."""
    for label in range(CLASSES):
        (root / f"class{label}").mkdir(parents=True)
        for index in range(PER_CLASS):
            image = photo(size=(64, 48), seed=100 * label + index)
            image.save(root / f"class{label}" / f"{index}.jpg", quality=95)
    return root


def train_build(**options):
    options = {"batch_size": 6, "img_size": 24, "choices": CHOICES, "device": "cpu", "num_threads": 2} | options
    return partial(imagenet_train, **sectioned(options))


def val_build(**options):
    options = {"batch_size": 6, "img_size": 24, "device": "cpu", "num_threads": 2} | options
    return partial(imagenet_val, **sectioned(options, VALIDATION))
