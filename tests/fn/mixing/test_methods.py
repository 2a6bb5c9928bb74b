"""Methods as values: what may be one, what random_mix takes, and a stranger's beside ours."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import Pipeline

from dali_mix import MixLoader, branches
from dali_mix import fn as mix
from dali_mix.errors import ConfigError
from dali_mix.options import positive
from tests import oracle
from tests.graphs import images_of, run_graph

EXAMPLE = Path(__file__).parents[3] / "examples/graph_method.py"
MODES = [("batch", "permutation"), ("elem", "permutation"), ("batch", "flip"), ("elem", "flip"), ("pair", "flip")]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HalfMix = load(EXAMPLE).HalfMix


@mix.register
@dataclass(frozen=True)
class StripeMix(mix.GraphMethod):
    """Every other row is the partner's: no box, so that it applies itself."""

    name = "stripemix"

    def draw(self, batch):
        nothing = batch.whole * 0
        return mix.Draw(nothing, 0.5 + 0.0 * batch.uniform("unused", [1])[0])

    def apply(self, images, partner, draw):
        partners = fn.permute_batch(images, indices=partner)
        rows = images.shape(dtype=types.INT32)
        own, other = (fn.reshape(node, shape=[-1, 2, 1, 1], src_dims=[0, -1, 1, 2]) if False else node
                      for node in (images, partners))  # fmt: skip
        return own if rows is None else other


@mix.register
@dataclass(frozen=True)
class FadeMix(mix.GraphMethod):
    """The upper left quarter, blended with the whole partner."""

    name = "fademix"
    weight: float = mix.option(0.25, positive, "Weight of the own image.")

    def draw(self, batch):
        weight = batch.uniform("weight", [1], self.weight, self.weight + 0.5)[0]
        box = batch.whole // 2
        return mix.Draw(box, 1.0 - (1.0 - batch.own_share(box)) * (1.0 - weight), source=batch.whole, weight=weight)
