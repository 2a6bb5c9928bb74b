"""Lists of files with their classes."""

import random

import pytest
from PIL import Image

from dali_mix import ConfigError, MixLoader
from dali_mix.data import scan_image_folder
from dali_mix.loading.recovery import TolerantLoader
from dali_mix.sources import open_source
from dali_mix.sources.paths import Paths
from pipelines.imagenet import imagenet_train, imagenet_val
from tests.sources.test_folder import make

RAW = {"batch_size": 4, "img_size": 16, "device": "cpu", "num_threads": 1}


def write(path, text):
    path.write_text(text)
    return open_source(f"list:{path}")


@pytest.mark.parametrize(
    "text",
    [
        "a/1.jpg,cat\nb 2.jpg,dog\n",
        'path,class\n"a/1.jpg",cat\n"b 2.jpg","dog"\n',
        "id,Label,width,Filename\n7,cat,3,a/1.jpg\n8,dog,4,b 2.jpg\n",
        "a/1.jpg\tcat\nb 2.jpg\tdog",
        "\ufeffa/1.jpg cat\r\n\r\n  b 2.jpg   dog  \n",
        "./a/1.jpg cat\na/../b 2.jpg dog\n",
    ],
)
def test_what_a_line_may_look_like(tmp_path, text):
    images = write(tmp_path / "train.csv", text)
    assert list(images.files) == [f"{tmp_path}/a/1.jpg", f"{tmp_path}/b 2.jpg"]
    assert (images.classes, images.labels.tolist()) == (("cat", "dog"), [0, 1])
    assert images.name == str(tmp_path / "train.csv")
    assert images.describe(1) == f"{tmp_path}/b 2.jpg"


def test_what_is_no_number_is_a_name(tmp_path):
    assert write(tmp_path / "train.csv", "a.jpg,+-1\nb.jpg,2\n").classes == ("+-1", "2")


def test_classes_may_be_numbers_and_paths_absolute(tmp_path):
    images = write(
        tmp_path / "train.txt", "/data/x.jpg 2\na.jpg 0\nb.jpg 10\n" + "".join(f"c {n}\n" for n in range(10))
    )
    assert images.files[:2] == ("/data/x.jpg", f"{tmp_path}/a.jpg")
    assert (images.labels[:3].tolist(), images.classes) == ([2, 0, 10], tuple(map(str, range(11))))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "train.csv names no image; give a path and a class a line"),
        ("path,class\n", "names no image"),
        ("a.jpg,cat\nb.jpg\n", r"line 2 has 1 field\(s\), not 2, by a comma between them"),
        ("a.jpg,cat\n\nb.jpg,dog,3\n", r"line 3 has 3 field\(s\), not 2"),
        ("a.jpg cat\nb.jpg\n", r"line 2 has 1 field\(s\), not 2, by a blank between them"),
        ("a.jpg,cat\n,dog\n", "line 2 has no path and class, but '' and 'dog'"),
        ("a.jpg,cat\nb.jpg,\n", "line 2 has no path and class, but 'b.jpg' and ''"),
        ("a.jpg,cat\nb\0.jpg,dog\n", "line 2 has no path and class"),
        ('a.jpg,cat\n"b.jpg,dog\n', "line 2: unexpected end of data; quote a field"),
        ("a.jpg 0\nb.jpg -1\n", "the class -1 is none of 0 to"),
        ("a.jpg 0\nb.jpg 3000000000\n", "the class 3000000000 is none of 0 to"),
        ("a.jpg 0\nb.jpg 2\n", "no image of 1 of the classes 0 to 2, the first is 1; number them without gaps"),
        ("id,breed\na.jpg,cat\nb.jpg,dog\n", "line 1 looks like names of columns, and 'id,breed' are not known"),
        (b"a.jpg,caf\xe9\n", "is not UTF-8 text"),
    ],
)
def test_malformed_lists_are_one_line(tmp_path, text, message):
    path = tmp_path / "train.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message) as error:
        open_source(f"list:{path}")
    assert "\n" not in str(error.value)


def test_what_is_no_list(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.csv cannot be read: No such file"):
        open_source(f"list:{tmp_path}/gone.csv")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        open_source(f"list:{tmp_path}")
    with pytest.raises(ConfigError, match=r"unknown scheme 'tfds'; there are folder, .*list"):
        open_source("tfds:mnist")


def test_the_classes_of_another_set_are_taken(tmp_path):
    names = write(tmp_path / "names.csv", "1.jpg,b\n2.jpg,c\n3.jpg,b\n")
    assert names.with_classes(["a", "b", "c"]).labels.tolist() == [1, 2, 1]
    with pytest.raises(ConfigError, match=r"1 class\(es\) that the training set lacks, the first is 'c'"):
        names.with_classes(["a", "b"])
    selected = names.with_classes(["a", "b"], select=True)
    assert ([path[-5:] for path in selected.files], selected.labels.tolist()) == (["1.jpg", "3.jpg"], [1, 1])
    with pytest.raises(ConfigError, match="none of the named classes"):
        names.with_classes(["x"], select=True)
    numbers = write(tmp_path / "numbers.csv", "1.jpg,1\n2.jpg,0\n")
    assert numbers.with_classes(["cat", "dog", "eel"]).labels.tolist() == [1, 0]


def test_a_list_of_a_folders_files_is_read_like_the_folder(image_folder, tmp_path):
    folder = scan_image_folder(image_folder / "train")
    rows = [f"{path},{folder.classes[label]}" for path, label in zip(folder.files, folder.labels, strict=True)]
    images = write(tmp_path / "train.csv", "\n".join(rows))
    assert (images.files, images.classes) == (folder.files, folder.classes)
    with MixLoader(imagenet_train(images, **RAW)) as one, MixLoader(imagenet_train(folder, **RAW)) as other:
        for _ in range(3):
            assert next(one).images.equal(next(other).images)
    with MixLoader(imagenet_val(f"list:{tmp_path}/train.csv", **RAW), "partial") as loader:
        assert [label for batch in loader for label in batch.labels.tolist()] == folder.labels.tolist()


def test_bad_files_of_a_list_are_replaced_and_excluded(tmp_path):
    for index in range(12):
        Image.new("RGB", (16, 16), (20 * index, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "5.png").write_text("no image")
    (tmp_path / "7.png").unlink()
    images = write(tmp_path / "all.txt", "".join(f"{index}.png {index % 2}\n" for index in range(12)))
    with TolerantLoader(lambda images: imagenet_train(images, **RAW), images) as loader:
        assert len(list(loader)) == 3
        bad = [image.path for image in loader.bad_images]
    assert sorted(bad) == [f"{tmp_path}/5.png", f"{tmp_path}/7.png"]
    left = images.without(bad)
    assert (len(left), images.owns(bad[0]), left.owns(bad[0])) == (10, True, False)
    assert left.digest() != images.digest()
    with pytest.raises(ConfigError, match=r"every image of .*all\.txt is excluded"):
        images.without([f"{index}.png" for index in range(12)], tmp_path)


def test_a_lists_digest_is_of_content_not_place(tmp_path):
    digests = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        digests.append(write(tmp_path / place / "l.txt", "a.jpg 0\nb.jpg 1\nc.jpg 0\n").digest())
    assert digests[0] == digests[1]
    assert write(tmp_path / "l.txt", "a.jpg 1\nb.jpg 0\nc.jpg 0\n").digest() != digests[0]


def test_a_folders_digest_is_what_it_always_was(tmp_path):
    """Saved runs name it."""
    folder = scan_image_folder(make(tmp_path, "b/1.jpg", "a/2.JPEG", "a/deep/3.png"))
    assert folder.digest() == "cfd688e03068ebc7ed55fae87c0249a375ba256e3dae81bb0aa03ceaed12301e"


def test_paths_are_a_sequence_of_text():
    names = ["/d/a.jpg", "/d/b\u00e9.jpg", "/d/sub/c.jpg", "/d/\udcff.jpg"]
    for paths in (Paths.of(names, "/d/"), Paths.of(names), Paths.of(names, "/elsewhere/")):
        assert list(paths) == names == [paths[index] for index in range(4)]
        assert (len(paths), paths[-1], paths[1:3]) == (4, names[3], tuple(names[1:3]))
        assert (paths == names, paths == names[:3], paths == Paths.of(names[::-1])) == (True, False, False)
        assert [name in paths for name in (*names, "/d/a", "a.jpg", "/d/", 3)] == [True] * 4 + [False] * 4
        assert list(paths.select([2, 0, 2])) == [names[2], names[0], names[2]]
        rows, lengths = paths.padded()
        assert [
            bytes(row[:length]).decode(errors="surrogateescape") for row, length in zip(rows, lengths, strict=True)
        ] == names
        assert (paths.are_utf8, paths.select([0, 1, 2]).are_utf8) == (False, True)
        with pytest.raises(IndexError):
            paths[4]
    assert (list(Paths.of([])), len(Paths.of([]).select([]))) == ([], 0)
    shuffled = random.Random(0).sample(names, 4)
    assert list(Paths.chained([Paths.of(shuffled[:2], "/d/"), Paths.of([]), Paths.of(shuffled[2:], "/d/")])) == shuffled
