"""Every recipe starts and takes two steps, with a shallow model and small images."""

import pytest

from dali_mix.train.settings import recipe_names

SMALLER = {
    "deit": "--model-kwargs depth=2 embed_dim=32 num_heads=2 --img-size 64",
    "cait": "--model-kwargs depth=2 embed_dim=32 num_heads=2 --img-size 64",
    # A CPU takes ten times as long for its convolutions in bfloat16, and DeiT's recipes use that too.
    "pvt": "--model-kwargs depths=1,1,1,1 --img-size 128 --no-amp",
    "resnet": "--model-kwargs layers=1,1,1,1 --img-size 64",
    "pyramidnet": "--model-kwargs depth=20 alpha=12",
    "demo": "--model-kwargs patch_size=16 embed_dim=32 depth=1 num_heads=2",
}


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_takes_two_steps(train, image_folder, small_images, name):
    smaller = next(flags for part, flags in SMALLER.items() if part in name)
    flags = f"--recipe {name} --bench-steps 2 -b 4 -vb 4 -j 2 --device cpu {smaller}"
    split = ["--val-split", "val"]
    data = small_images if "cifar" in name else image_folder
    code, out, err = train(*split, data=data, defaults=flags.split())
    assert code == 0, err
    assert "2 batches of 4 on each of 1 rank(s)" in out
