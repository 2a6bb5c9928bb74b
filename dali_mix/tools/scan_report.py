"""The findings of ``scan``, for a reader and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dali_mix.loading.probe import Probed
from dali_mix.sources.folder import SPLIT_NAMES
from dali_mix.text import show
from dali_mix.tools.scan_findings import Findings, ListedImage, Split, leaked, mislabeled, repeated_within

SMALL_PX = 32
"""An image with a shorter side counts as small."""

_FEW = 3
"""How many paths the report shows of each kind; the JSON has all."""


def format_report(findings: Findings, duplicates: Sequence[list[ListedImage]]) -> str:
    """The report on standard output; a line or a few for each topic, topics without findings left out."""
    lines = [*_splits(findings.splits), *format_bad(findings.bad, findings.done)]
    lines += _row("Formats", ", ".join(f"{kind} {count:,}" for kind, count in findings.kinds.most_common()))
    lines += _sizes(findings)
    if findings.rotated:
        lines += _row("Rotated", f"{len(findings.rotated):,} by EXIF, which training ignores, as torchvision does")
        lines += _few(findings.rotated)
    if findings.differing:
        lines += _row("Pixels", f"{len(findings.differing):,} decoded otherwise than by PIL, convert to RGB")
        lines += _few(f"{show(path)} is {what}" for path, what in findings.differing)
    if findings.contradicting:
        lines += _row("Extension", f"{len(findings.contradicting):,} of another format than the extension says")
        lines += _few(f"{show(path)} is {name}" for path, name in findings.contradicting)
    lines += _duplicates(findings, duplicates)
    for split in findings.splits:
        for part in split.images.left_out.told(str(findings.base)):
            lines += _row("Left out", f"of {show(split.name)}: {show(part)}")
    for path in findings.unused:
        lines += _row("Left out", f"{show(path.name)}, as another folder has a name that means the same")
    return "\n".join(lines)


def format_bad(bad: Sequence[Probed], done: int) -> list[str]:
    """The undecodable files by cause, most frequent first."""
    if not bad:
        return _row("Undecodable", f"none of {done:,}")
    lines = _row("Undecodable", f"{len(bad):,} of {done:,}")
    causes = Counter(_cause(probed) for probed in bad)
    for cause, count in causes.most_common():
        lines.append(f"  {count:>8,}  {cause}")
        files = [probed for probed in bad if _cause(probed) == cause]
        details = (str(probed.error)[len(cause) :] for probed in files)
        lines += _few(f"{show(probed.path)}{detail}" for probed, detail in zip(files, details, strict=True))
    return lines


def _cause(probed: Probed) -> str:
    return str(probed.error).partition(" (")[0]


def _splits(splits: Sequence[Split]) -> list[str]:
    lines = []
    for number, split in enumerate(splits):
        counts = class_counts(split)
        ranked = sorted(counts, key=lambda name: (counts[name], name))
        smallest, largest = (f"{show(name)} {counts[name]:,}" for name in (ranked[0], ranked[-1]))
        median = float(np.median(list(counts.values())))
        lines += _row(
            show(split.name),
            f"{len(split.images):,} images in {len(counts):,} classes; smallest {smallest}, median {median:,.6g}, "
            f"largest {largest}",
        )
        empty = [name for name in ranked if not counts[name]]
        if empty:
            refused = ", which training refuses" if split.name in SPLIT_NAMES["train"] else ""
            lines += _row("", f"{len(empty):,} class folder(s) without an image{refused}: {_names(empty)}")
        elif number == 0 and (order := split.images.remark()):
            lines += _row("", show(order))
    for split in splits[1:]:
        for one, other in ((splits[0], split), (split, splits[0])):
            lacking = [name for name in one.images.classes if name not in set(other.images.classes)]
            if lacking:
                lines += _row(
                    "", f"{len(lacking):,} class(es) of {show(one.name)} not in {other.name}: {_names(lacking)}"
                )
    return lines


def _sizes(findings: Findings) -> list[str]:
    if not findings.heights:
        return []
    lines = []
    for name, values in (("Width", findings.widths), ("Height", findings.heights)):
        median = f"{float(np.median(values)):g}"
        lines += _row(name, f"min {min(values)}, median {median}, max {max(values)} px")
    path, width, height = findings.largest
    lines += _row("Largest", f"{width * height / 1e6:.1f} megapixels, {show(path)}")
    small = count_small(findings)
    return lines + (_row("Small", f"{small:,} with a side under {SMALL_PX} px") if small else [])


def _duplicates(findings: Findings, groups: Sequence[list[ListedImage]]) -> list[str]:
    lines = []
    for split in findings.splits:
        count = repeated_within(groups, split.name)
        if count:
            inside = [[image for image in group if image.split == split.name] for group in groups]
            lines += _row("Duplicates", f"{count:,} image(s) of {show(split.name)} repeat another one, byte for byte")
            lines += _few(_equal(group) for group in inside if len(group) > 1)
    first = findings.splits[0].name
    for split in findings.splits[1:]:
        pairs = leaked(groups, first, split.name)
        if pairs:
            lines += _row("LEAK", f"{len(pairs):,} image(s) of {show(split.name)} are also in {show(first)}")
            lines += _few(map(_equal, pairs))
    twofold = mislabeled(groups)
    if twofold:
        lines += _row("Labels", f"{len(twofold):,} image(s) stand in more than one class")
        lines += _few(map(_equal, twofold))
    return lines


def _equal(images: Sequence[ListedImage]) -> str:
    more = f" = ... ({len(images)} in all)" if len(images) > _FEW else ""
    return " = ".join(show(image.path) for image in images[:_FEW]) + more


def _row(name: str, text: str) -> list[str]:
    return [f"{name:<11} {text}"]


def _few(items: Iterable[str]) -> list[str]:
    everything = list(items)
    more = len(everything) - _FEW
    # One more line would be as long as the line that says so.
    shown = everything if more <= 1 else everything[:_FEW]
    return [f"{'':12}{item}" for item in shown] + ([f"{'':12}... and {more:,} more"] if more > 1 else [])


def _names(names: Sequence[str]) -> str:
    more = f", ... ({len(names):,} in all)" if len(names) > _FEW else ""
    return ", ".join(map(show, names[:_FEW])) + more


def class_counts(split: Split) -> dict[str, int]:
    """Images per class."""
    counts = np.bincount(split.images.labels, minlength=len(split.images.classes))
    return dict(zip(split.images.classes, counts.tolist(), strict=True))


def count_small(findings: Findings) -> int:
    """How many decodable images have a side under ``SMALL_PX``."""
    if not findings.heights:
        return 0
    return int((np.minimum(findings.heights, findings.widths) < SMALL_PX).sum())


def to_json(findings: Findings, duplicates: Sequence[list[ListedImage]]) -> dict[str, Any]:
    """Everything, all files included; paths are relative to "data_dir"."""
    path, width, height = findings.largest
    return {
        "data_dir": str(findings.base),
        "files": findings.done,
        "splits": {
            split.name: {
                "images": len(split.images),
                "classes": class_counts(split),
                "ignored": [findings.relative(path) for path in split.images.left_out.files],
            }
            for split in findings.splits
        },
        "undecodable": [{"path": probed.path, "error": probed.error} for probed in findings.bad],
        "formats": dict(findings.kinds.most_common()),
        "exif_rotated": findings.rotated,
        "extension_contradicts": [{"path": path, "format": name} for path, name in findings.contradicting],
        "pixels_differ": [{"path": path, "difference": what} for path, what in findings.differing],
        "width_px": _summary(findings.widths),
        "height_px": _summary(findings.heights),
        "largest": {"path": path, "width_px": width, "height_px": height} if path else None,
        f"under_{SMALL_PX}_px": count_small(findings),
        "duplicates": [[image._asdict() for image in group] for group in duplicates],
    }


def _summary(values: Sequence[int]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}
