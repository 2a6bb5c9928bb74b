import numpy as np
from PIL import Image

from dali_mix.data import scan_image_folder
from dali_mix.sources.synthetic import CLASSES, write_synthetic_folder


def test_layout_sizes_and_repeatability(tmp_path):
    first = write_synthetic_folder(tmp_path / "first", train_per_class=2, val_per_class=1)
    again = write_synthetic_folder(tmp_path / "again", train_per_class=2, val_per_class=1)
    other = write_synthetic_folder(tmp_path / "other", train_per_class=2, val_per_class=1, seed=1)
    train = scan_image_folder(first / "train")
    assert train.classes == tuple(CLASSES)
    assert (len(train), len(scan_image_folder(first / "val"))) == (20, 10)
    for path in train.files:
        image = Image.open(path)
        assert image.format == "JPEG"
        assert min(image.size) >= 64
        relative = path.removeprefix(f"{first}/")
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(again / relative)))
        assert (other / relative).read_bytes() != (first / relative).read_bytes()


def test_an_interrupted_folder_is_completed(tmp_path):
    root = write_synthetic_folder(tmp_path, train_per_class=1, val_per_class=1)
    victim = root / "train" / next(iter(CLASSES)) / "0000.jpg"
    expected = victim.read_bytes()
    victim.unlink()
    (root / "synthetic.json").unlink()
    write_synthetic_folder(tmp_path, train_per_class=1, val_per_class=1)
    assert victim.read_bytes() == expected
