"""The loaders in PyTorch Lightning's own loops (the extra "lightning")."""

import pytest
import torch

from dali_mix import MixLoader
from pipelines.imagenet import imagenet_train, imagenet_val

lightning = pytest.importorskip("lightning")
ModelCheckpoint = pytest.importorskip("lightning.pytorch.callbacks").ModelCheckpoint
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own

IMAGES, BATCH, EPOCHS = 11, 2, 3
OPTIONS = {"batch_size": BATCH, "img_size": 8, "device": "cpu", "num_threads": 1}


class Watched(lightning.LightningModule):
    """Keeps the labels of what it is given; its one weight depends on every batch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained, self.validated = [], []

    def training_step(self, batch, index):
        self.trained.append((self.current_epoch, index, batch.labels.tolist()))
        return (self.weight - batch.images.float().mean()) ** 2

    def validation_step(self, batch, index):
        self.validated += batch.labels.tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(scope="module")
def folder(eleven_classes):
    return eleven_classes


def fit(folder, root, checkpoint=None, **limits):
    """A run of Lightning's, with its sanity check, validation after each epoch and a checkpoint after each step."""
    module = Watched()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    saver = ModelCheckpoint(root, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = lightning.Trainer(default_root_dir=root, callbacks=[saver], **quiet, **limits)
    train, val = imagenet_train(folder, **OPTIONS), imagenet_val(folder, **OPTIONS)
    with MixLoader(train) as training, MixLoader(val, "partial") as validation:
        trainer.fit(module, training, validation, ckpt_path=checkpoint)
    return module


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    return fit(folder, tmp_path_factory.mktemp("whole"), max_epochs=EPOCHS)


def test_three_epochs_have_all_their_batches(folder, whole):
    with MixLoader(imagenet_train(folder, **OPTIONS)) as loader:
        expected = [
            (epoch, index, batch.labels.tolist()) for epoch in range(EPOCHS) for index, batch in enumerate(loader)
        ]
    assert whole.trained == expected
    sanity_check = 2 * BATCH
    assert whole.validated[sanity_check:] == list(range(IMAGES)) * EPOCHS


@pytest.mark.parametrize("steps", [7, 10])
def test_a_run_stopped_within_an_epoch_or_at_its_end_continues_to_the_same_weight(folder, whole, tmp_path, steps):
    before = fit(folder, tmp_path, max_steps=steps, max_epochs=EPOCHS)
    after = fit(folder, tmp_path, tmp_path / f"step={steps}.ckpt", max_epochs=EPOCHS)
    assert len(before.trained) == steps
    assert before.trained + after.trained == whole.trained
    assert torch.equal(after.weight, whole.weight)


def test_limited_batches_are_other_ones_in_each_epoch(folder, whole, tmp_path):
    module = fit(folder, tmp_path, max_epochs=EPOCHS, limit_train_batches=2)
    assert module.trained == [entry for entry in whole.trained if entry[1] < 2]
