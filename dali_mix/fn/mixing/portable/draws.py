"""What all methods draw alike: the partner, and who shares a draw."""

from __future__ import annotations

from nvidia.dali import fn

from dali_mix.fn import graph
from dali_mix.fn.graph import Node, OpArguments


def draw_partner(pairing: str, op: OpArguments) -> Node:
    """int32 (): whom each sample is mixed with.

    "permutation" draws one without fixed points (in a batch of 1 the sample is its own partner);
    "flip" takes B-1-i, as timm and the SMMix authors do.
    """
    if pairing == "permutation":
        return fn.batch_permutation(no_fixed_points=True, **op("partner"))
    batch_size = graph.batch_size_of("pairing='flip'")
    # Only the index is wanted, but DALI has nothing cheaper that differs between samples.
    permutation = fn.batch_permutation(**op("partner"))
    return batch_size - 1 - graph.sample_index(permutation, batch_size)


def share_draws(draws: Node, mode: str) -> Node:
    """Spread per-sample draws as ``mode`` says: one for the batch, one per pair, one per sample."""
    if mode == "batch":
        return graph.share_first(draws)
    if mode == "pair":
        return graph.share_in_pairs(draws, graph.batch_size_of("mode='pair'"))
    return draws
