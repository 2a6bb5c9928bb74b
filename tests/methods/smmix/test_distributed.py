"""Two ranks under DDP: the gradients are those of one rank that has both batches."""

import pytest

from tests.ranks import run_ranks

WORKER = """
import os, torch, timm
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from dali_mix.data import Batch
from dali_mix.methods import Plain, SMMixStep
from dali_mix.train.distributed import shared_rng
from dali_mix.train.step import TrainStep

dist.init_process_group("gloo")
rank = dist.get_rank()

def step():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, embed_dim=32, depth=2, num_heads=2, num_classes=5)
    return TrainStep(Plain(model, 5), [SMMixStep(model, 5)]).train()

generator = torch.Generator().manual_seed(1)
images, labels = torch.randn(2, 4, 3, 64, 64, generator=generator), torch.randint(0, 5, (2, 4), generator=generator)

def batch(images, labels, branch):
    return Batch(images, torch.nn.functional.one_hot(labels, 5).float(), labels, branch)

# find_unused_parameters stays off: a parameter without gradient would make the next step raise.
ddp, alone = DistributedDataParallel(step()), step()
for index, branch in enumerate(["smmix", "mixup", "smmix"]):
    square = int(shared_rng(0, 0, index).integers(1, 4))
    sides = [None, None]
    dist.all_gather_object(sides, square)
    assert sides[0] == sides[1], sides
    ddp.zero_grad(); alone.zero_grad()
    ddp(batch(images[rank], labels[rank], branch), square)["loss"].backward()
    # Sample i is paired with B-1-i: the second batch goes into the middle of the first, so that pairs stay pairs.
    order = lambda both: torch.cat([both[0][:2], both[1], both[0][2:]])
    alone(batch(order(images), order(labels), branch), square)["loss"].backward()
    for got, wanted in zip(ddp.module.parameters(), alone.parameters()):
        torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-4, atol=1e-6)
print("equal", flush=True)
dist.destroy_process_group()
"""


@pytest.mark.distributed
def test_gradients_are_those_of_the_joined_batch(tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    result = run_ranks(worker, ranks=2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("equal") == 2
