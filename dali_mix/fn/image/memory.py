"""How much memory a batch's decoded images may take: half of what the process has."""

from __future__ import annotations

import os
from pathlib import Path

TOO_LARGE_TOGETHER = "do not fit into memory together"
"""What the native size limit says of a batch, none of whose images is at fault."""

_SHARE = 2
"""A pipeline may fill one part in this many: the other half is for what else there is, above all for a second one."""

_BYTES_PER_PIXEL = 3
_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def max_batch_pixels(device_id: int | None, share: float = 1.0) -> int:
    """The most pixels that the images of one batch may have together.

    Args:
        device_id: the GPU that images are decoded to, None for the host's memory.
        share: of each image, in (0, 1], that is decoded on average.

    Returns:
        the number that fills half of the GPU's memory, or of this process's share of the machine's, as RGB.
    """
    if device_id is None:
        ranks = max(1, _positive(os.environ.get("LOCAL_WORLD_SIZE", "")) or 1)  # torchrun's, of this machine
        memory = host_memory() // ranks
    else:
        import torch  # for the GPU's size alone; it takes seconds to import

        memory = torch.cuda.get_device_properties(device_id).total_memory
    return int(memory / _SHARE / _BYTES_PER_PIXEL / share)


def host_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or those of its control group if they are fewer."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_control_group_limits()])


def _control_group_limits() -> list[int]:
    """The limits of the group that this process is in and of those above it, of both versions of the interface."""
    try:
        lines = _OWN_CGROUP.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        version = {"": ("", "memory.max"), "memory": ("memory", "memory.limit_in_bytes")}.get(controllers)
        if version is None:
            continue
        base, name = _CGROUP / version[0], version[1]
        inside = Path(path.lstrip("/"))
        # In a container the path is often the host's, and the group's own files lie at the top.
        found += [_limit(base / place / name) for place in (inside, *inside.parents)]
    return [limit for limit in found if limit]


def _limit(path: Path) -> int | None:
    try:
        return _positive(path.read_text().strip())
    except OSError:
        return None


def _positive(text: str) -> int | None:
    return int(text) if text.isdecimal() and int(text) > 0 else None
