import pytest

from dali_mix.train import main
from tests.train.conftest import FAST
from tests.train.recovery.runs import RICH
from train_imagenet import PIPELINES


@pytest.fixture(scope="session")
def whole(tmp_path_factory, image_folder):
    """A run that was never stopped, with a checkpoint after every update."""
    output = tmp_path_factory.mktemp("whole")
    flags = [*FAST, *RICH, "--output", str(output), "--data-dir", str(image_folder), "--experiment", "run"]
    assert main(PIPELINES, flags) == 0
    return output / "run"
