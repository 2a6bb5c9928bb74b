import pytest
from PIL import Image

from dali_mix.train import main
from train_imagenet import PIPELINES

TINY = "--model vit_tiny_patch16_224 --img-size 32 --model-kwargs patch_size=8 embed_dim=16 depth=2 num_heads=2".split()
FAST = [*TINY, *"-b 10 -j 2 --epochs 2 --opt adamw --lr 1e-3 --warmup-epochs 1 --device cpu --crop-pct 1.0".split()]


@pytest.fixture
def small_images(image_folder, tmp_path):
    """The images of the folder, all of 32 x 32 pixels, as CIFAR's are."""
    for path in image_folder.glob("*/*/*.jpg"):
        copy = tmp_path / "small" / path.relative_to(image_folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((32, 32)).save(copy)
    return tmp_path / "small"


@pytest.fixture
def train(capfd, image_folder, tmp_path):
    """Run the command line in this process: exit code, stdout, stderr."""

    def run(*flags, data=image_folder, defaults=FAST):
        argv = [*defaults, "--output", str(tmp_path), *(["--data-dir", str(data)] if data else []), *map(str, flags)]
        capfd.readouterr()
        try:
            code = main(PIPELINES, argv)
        except SystemExit as exit_:
            code = exit_.code
        return code, *capfd.readouterr()

    return run
