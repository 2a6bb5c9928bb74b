"""One process or many: who am I, which device, and what all ranks share."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from timm.utils import distribute_bn
from torch import nn
from torch.distributed.rendezvous import rendezvous

from dali_mix.errors import ConfigError

_TIMEOUT = datetime.timedelta(minutes=30)
"""How long a rank waits for the others: longer than rank 0 takes to write a checkpoint to a slow disk."""


@dataclass(frozen=True)
class World:
    """This process among the ranks of the run, whose number torch calls the world size.

    Fields:
        rank, size: global rank and number of ranks.
        device: where this rank computes.
        control: group for what the ranks tell each other beside the computation; None for the one they compute in.
    """

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """True on the one rank that speaks and writes."""
        return self.rank == 0

    def reduce_sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Tell whether a flag is true on any rank; the device is not waited for."""
        if self.size == 1:
            return flag
        answer = torch.tensor(int(flag))
        dist.all_reduce(answer, group=self.control)
        return bool(answer.item())

    def gather(self, value: Any) -> list[Any] | None:
        """Collect every rank's value, in order of rank, on the main rank; the others get None.

        Args:
            value: anything that can be pickled; it stays within the run.
        """
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, values, group=self.control)
        return values

    def broadcast(self, value: Any) -> Any:
        """Give every rank the main rank's value."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, group=self.control)
        return values[0]

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()

    def share_batch_norm(self, model: nn.Module, how: str) -> None:
        """Give all ranks the same BatchNorm statistics: their mean ("reduce"), rank 0's ("broadcast"), or not ("")."""
        if self.size > 1 and how:
            distribute_bn(model, self.size, reduce=how == "reduce")


@contextmanager
def open_world(device: str | None, deterministic: bool = False) -> Iterator[World]:
    """Join the process group that torchrun describes, or be alone.

    Args:
        device: "cuda", "cpu", or None for CUDA where there is one.
        deterministic: ask PyTorch for the same bits every time.

    Raises:
        ConfigError: if CUDA is asked for and absent.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no CUDA GPU found; use --device cpu, or in Docker run with --gpus all")
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    size, rank, local_rank = _read_environment()
    place = torch.device("cpu") if kind == "cpu" else torch.device("cuda", local_rank)
    if place.type == "cuda" and local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"rank {rank} has no GPU of its own: this machine has {torch.cuda.device_count()}; lower --nproc-per-node"
        )
    _configure_backends(place, deterministic)
    control = None
    if size > 1:
        on_gpu = place.type == "cuda"
        _join("nccl" if on_gpu else "gloo", place if on_gpu else None)
        if on_gpu:
            group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
            control = group if isinstance(group, dist.ProcessGroup) else None
    try:
        yield World(rank, size, place, control)
    finally:
        torch.use_deterministic_algorithms(False)
    # Not after an error: the peers may be waiting in a collective, and taking the group down would
    # wait for them; the launcher ends them when this process is gone.
    if size > 1:
        dist.destroy_process_group()


def _join(backend: str, device: torch.device | None) -> None:
    """Join the process group of the launcher's variables.

    A launcher that has replaced its ranks keeps its store, and in it the addresses of the dead ones, which PyTorch
    2.15 may take for the new ones: attempts are lost, or wait for ever.  Where one launcher has all ranks, the
    number of the restart keeps them apart; on several machines the launchers count differently.
    """
    store, rank, size = next(rendezvous("env://", timeout=_TIMEOUT))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
        store = dist.PrefixStore(f"restart-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, device_id=device, timeout=_TIMEOUT)


def _configure_backends(place: torch.device, deterministic: bool) -> None:
    if deterministic:
        # cuBLAS reads it when it starts; without it, PyTorch refuses deterministic matrix products.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if place.type == "cuda":
        torch.cuda.set_device(place)
        # As timm's trainer sets them: input sizes seldom change, and TF32 is enough.
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cuda.matmul.allow_tf32 = True


def _read_environment() -> tuple[int, int, int]:
    """World size, rank and local rank; torchrun's variables count, a cluster's own (SLURM_*) do not."""
    if not all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
        return 1, 0, 0
    rank = int(os.environ["RANK"])
    return int(os.environ["WORLD_SIZE"]), rank, int(os.environ.get("LOCAL_RANK", rank))


def shared_rng(seed: int, epoch: int, step: int) -> np.random.Generator:
    """Make random numbers that are the same on every rank, and after a resume, at this step."""
    return np.random.default_rng([seed, epoch, step])
