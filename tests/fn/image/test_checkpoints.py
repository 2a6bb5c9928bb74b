"""An augmented pipeline goes on where it stood, and is what it was when it is loaded from a file."""

import numpy as np
import pytest
import torch
from nvidia.dali.pipeline import Pipeline

from dali_mix import MixLoader
from dali_mix.data import Augmentation, Crop, GraphReader, scan_image_folder
from pipelines.imagenet import imagenet_train
from tests.fn.image.images import EVERYTHING, RECIPE

pytestmark = pytest.mark.usefixtures("implementation")


@pytest.mark.parametrize("options", [EVERYTHING, Augmentation(aa=RECIPE, reprob=0.25)])
def test_a_restored_pipeline_goes_on_bit_for_bit(image_folder, options):
    def loader(**restored):
        pipeline = imagenet_train(
            image_folder / "train", batch_size=8, img_size=32, augmentation=options,
            crop=Crop(interpolation="random"),
            device="cpu", num_threads=2,
        )  # fmt: skip
        return MixLoader(pipeline, **restored)

    with loader() as first:
        batches = iter(first)
        for _ in range(3):
            next(batches)
        state = first.state_dict()
        expected = [batch.images.clone() for batch in batches]
    with loader() as second:
        second.load_state_dict(state)
        resumed = [batch.images.clone() for batch in second]
    assert len(expected) > 2
    assert all(torch.equal(a, b) for a, b in zip(expected, resumed, strict=True))


@pytest.mark.parametrize("augmentation", [EVERYTHING, Augmentation(aa="v0", reprob=0.5, remode="rand", recount=2)])
def test_a_deserialized_graph_draws_the_same(image_folder, augmentation):
    folder = GraphReader(scan_image_folder(image_folder / "train"))
    pipeline = imagenet_train(folder, batch_size=8, img_size=32, augmentation=augmentation, device="cpu")
    copy = Pipeline.deserialize(pipeline.serialize())
    for _ in range(3):
        ours, theirs = (np.stack([np.asarray(sample) for sample in p.run()[0]]) for p in (pipeline, copy))
        assert np.array_equal(ours, theirs)
