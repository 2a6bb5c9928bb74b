import pytest
import torchvision

from dali_mix import ConfigError
from dali_mix.data import scan_image_folder
from dali_mix.sources.extensions import IMG_EXTENSIONS


def make(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    return root


def test_labels_follow_sorted_class_names(tmp_path):
    folder = scan_image_folder(make(tmp_path, "b/1.jpg", "a/2.JPEG", "a/deep/3.png", "a/notes.txt", "stray.jpg"))
    assert folder.classes == ("a", "b")
    assert [(path.rsplit("/", 1)[1], label) for path, label in zip(folder.files, folder.labels, strict=True)] == [
        ("2.JPEG", 0),
        ("3.png", 0),
        ("1.jpg", 1),
    ]


def test_validation_takes_the_training_sets_labels(tmp_path):
    folder = scan_image_folder(make(tmp_path, "c/1.jpg"), classes=["a", "b", "c"])
    assert folder.labels.tolist() == [2]


def test_the_digest_is_of_content_not_place(tmp_path):
    here = scan_image_folder(make(tmp_path / "here", "a/1.jpg", "b/2.jpg"))
    there = scan_image_folder(make(tmp_path / "there", "a/1.jpg", "b/2.jpg"))
    moved = scan_image_folder(make(tmp_path / "moved", "a/1.jpg", "a/2.jpg", "b/3.jpg"))
    assert here.digest() == there.digest() != moved.digest()


@pytest.mark.parametrize(
    ("paths", "classes", "message"),
    [
        ([], None, "does not exist"),
        (["images"], None, "is not a folder"),
        (["images/stray.jpg"], None, "empty of class folders"),
        (["images/a/notes.txt"], None, "holds no image"),
        (["images/a/1.jpg", "images/z/1.jpg"], ["a"], "'z'"),
    ],
)
def test_unusable_folders(tmp_path, paths, classes, message):
    make(tmp_path, *paths)
    with pytest.raises(ConfigError, match=message):
        scan_image_folder(tmp_path / "images", classes)


def test_a_link_from_a_class_to_the_whole_folder_is_not_followed(tmp_path):
    """It would list every image of the set once more, under that one class."""
    before = scan_image_folder(make(tmp_path, "a/1.jpg", "b/2.jpg"))
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert scan_image_folder(tmp_path) == before


def test_the_extensions_are_those_of_torchvision():
    assert IMG_EXTENSIONS == torchvision.datasets.folder.IMG_EXTENSIONS
