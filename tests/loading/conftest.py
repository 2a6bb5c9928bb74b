import pytest
from PIL import Image

from dali_mix.data import scan_image_folder


@pytest.fixture(scope="session")
def eleven_classes(tmp_path_factory):
    """One image in each class, so that labels tell images apart."""
    root = tmp_path_factory.mktemp("eleven")
    for index in range(11):
        (root / f"{index:02}").mkdir()
        Image.new("RGB", (8, 8), (20 * index, 0, 0)).save(root / f"{index:02}" / "0.png")
    return scan_image_folder(root)
