"""An exclude list's lines name images by any path that leads to them."""

from pathlib import Path

from dali_mix.data import scan_image_folder
from dali_mix.sources.exclusion import find_named
from tests.sources.test_folder import make


def test_paths_are_compared_by_what_they_lead_to(tmp_path):
    root = make(tmp_path / "set", "train/a/1.jpg", "train/a/2.jpg", "train/b/3.jpg", "train/b/4.jpg")
    make(tmp_path, "store/blob", "other/5.jpg")
    (root / "train/a/6.jpg").symlink_to("../b/7.jpg")  # a chain of links
    (root / "train/b/7.jpg").symlink_to(tmp_path / "store/blob")
    (root / "train/c").symlink_to(tmp_path / "other")
    (tmp_path / "link").symlink_to(root)
    folder = scan_image_folder(tmp_path / "link" / "train")
    lines = {
        "train/a/1.jpg": {"a/1.jpg"},
        "./train//b/../a/2.jpg": {"a/2.jpg"},
        str(root / "train/b/3.jpg"): {"b/3.jpg"},
        str(tmp_path / "link/train/b/4.jpg"): {"b/4.jpg"},
        str(tmp_path / "store/blob"): {"a/6.jpg", "b/7.jpg"},
        str(tmp_path / "other/5.jpg"): {"c/5.jpg"},
        "a/1.jpg": set(),
        "train/a": set(),
        "nul\0": set(),
    }
    for line, expected in lines.items():
        named = find_named(folder.files, folder.links, [line], tmp_path / "link")
        assert {str(Path(folder.files[index]).relative_to(folder.root)) for index in named.files} == expected, line
    named = find_named(folder.files, folder.links, list(lines), tmp_path / "link")
    assert (len(named.files), named.lines) == (len(folder), set(range(6)))


def test_a_folder_is_narrowed_by_another_name_of_it(tmp_path):
    make(tmp_path / "set", "train/a/1.jpg", "train/b/2.jpg")
    (tmp_path / "link").symlink_to("set")
    folder = scan_image_folder(tmp_path / "link" / "train")
    left = folder.without([str(tmp_path / "set/train/a/1.jpg")], tmp_path / "link")
    assert (left.files, tuple(left.labels), left.classes) == ((str(tmp_path / "link/train/b/2.jpg"),), (1,), ("a", "b"))
