import argparse
import contextlib
import itertools
import json

import pytest
import torch

from dali_mix.data import DecoderSettings, scan_image_folder, select_backend
from dali_mix.loading.device import Backend
from dali_mix.tools.bench import loader, sweep
from dali_mix.tools.bench.__main__ import main
from dali_mix.tools.bench.alternatives import ALTERNATIVES, segment
from dali_mix.tools.bench.setting import Alternative, Setting

TINY = "--device cpu -j 2 -b 8 --img-size 32 --rounds 2 --batches 2".split()
PLAIN = [name for name, alternative in ALTERNATIVES.items() if not alternative.of_recipe]
"""Those that augment by a recipe have tests of their own."""
MIXED = ("cutmix", "mixup", "random_mix", "random_mix_half", "nvidia_mixup", "timm", "torchvision")


def setting_of(folder, **others):
    values = {"backend": select_backend("cpu"), "batch_size": 8, "img_size": 32, "interpolation": "bilinear"}
    return Setting(folder=folder, decoder_settings=DecoderSettings(), **(values | {"workers": 1} | others))


def test_the_loader_benchmark_measures_every_alternative(tmp_path, image_folder, capsys):
    path = tmp_path / "figures.json"
    assert main(["loader", "--data-dir", str(image_folder / "train"), *TINY, "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert list(record["results"]) == ["none", "cutmix", "mixup", "random_mix", "nvidia", "nvidia_mixup"]
    assert record["results"]["none"]["ratio"]["median"] == record["results"]["none"]["cpu_ratio"]["median"] == 1
    assert all(len(seconds) == 2 for seconds in record["seconds"].values())
    for name, figures in record["results"].items():
        per_image = sum(record["cpu_seconds"][name]) / 2
        assert figures["cpu_s_per_1000"]["median"] == pytest.approx(1000 * per_image)
        assert per_image > 0
    assert record["environment"]["dali"]
    assert record["settings"]["batch_size"] == 8
    output = capsys.readouterr()
    assert all(text in output.out for text in [*record["results"], "cpu s / 1000", "time / none", "cpu / none"])
    assert "6 of 70 images are left out, to fill whole batches of 8 (--images 64)" in output.err


@pytest.mark.parametrize("name", PLAIN)
def test_an_alternative_delivers_whole_batches_epoch_after_epoch(image_folder, name):
    folder = loader._whole_batches(scan_image_folder(image_folder / "train"), 16, 8)
    setting = setting_of(folder)
    with ALTERNATIVES[name].open(setting) as batches:
        taken = list(itertools.islice(batches, 5))  # two and a half epochs
    assert len(taken) == 5
    for images, targets in taken:
        assert len(images) == len(targets) == 8
        assert {image.device for image in images} == {targets.device} == {setting.device}
        if name == "decode":
            assert all(image.dtype == torch.uint8 and image.shape[2] == 3 for image in images)
        elif name == "decode_resize":
            assert images.dtype == torch.uint8
            assert images.shape == (8, 32, 32, 3)
        else:
            assert images.dtype == (torch.float16 if name.endswith("half") else torch.float32)
            assert images.shape == (8, 3, 32, 32)
            assert images.mean().abs() < 3  # normalized
        if targets.ndim == 1:
            assert targets.dtype == torch.int64
            assert set(targets.tolist()) <= set(folder.labels)
        else:
            assert targets.shape == (8, 10)
            assert targets.sum(1) == pytest.approx(1)
    mixed = any(len(row.unique()) > 2 for _, targets in taken if targets.ndim == 2 for row in targets)
    assert mixed == (name in MIXED)  # two images' labels in one row


def test_the_alternatives_see_the_same_photographs_in_an_epoch(image_folder):
    folder = loader._whole_batches(scan_image_folder(image_folder / "train"), 64, 8)
    for name in ("none", "nvidia", "decode_resize"):
        with ALTERNATIVES[name].open(setting_of(folder)) as batches:
            targets = torch.cat([targets for _, targets in itertools.islice(batches, 8)])
        labels = targets.argmax(1) if targets.ndim == 2 else targets
        assert sorted(labels.tolist()) == sorted(folder.labels), name


def test_images_are_spread_over_the_classes(image_folder):
    folder = loader._spread_over_classes(scan_image_folder(image_folder / "train"), 24)
    counts = [folder.labels.tolist().count(label) for label in range(10)]
    assert counts == [3, 3, 3, 3, 2, 2, 2, 2, 2, 2]
    assert list(folder.files) == sorted(folder.files)


def test_several_baselines_have_columns_of_their_own(tmp_path, image_folder, capsys):
    path = tmp_path / "figures.json"
    flags = "--only decode none nvidia --baseline none nvidia --images 16".split()
    assert main(["loader", "--data-dir", str(image_folder / "train"), *TINY, *flags, "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    seconds = record["seconds"]
    for key, base in (("ratio", "none"), ("ratio nvidia", "nvidia")):
        expected = sum(a / b for a, b in zip(seconds["decode"], seconds[base], strict=True)) / 2
        assert record["results"]["decode"][key]["median"] == pytest.approx(expected)
        assert record["results"][base][f"cpu_{key}"]["median"] == 1
    assert "cpu / nvidia" in capsys.readouterr().out


def test_a_sweep_names_the_fastest_setting(tmp_path, image_folder, capsys):
    path = tmp_path / "figures.json"
    flags = "--sweep --sweep-threads 1 2 --only cutmix --rounds 1".split()
    assert main(["loader", "--data-dir", str(image_folder / "train"), *TINY, *flags, "--json", str(path)]) == 0
    results = json.loads(path.read_text())["results"]
    assert list(results) == ["-j 1", "-j 2"]
    fastest = max(results, key=lambda name: results[name]["per_s"]["median"])
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"best: cutmix with {fastest}: ")


def test_on_a_gpu_a_sweep_goes_over_threads_and_shares_for_the_hardware_decoder(image_folder):
    setting = setting_of(scan_image_folder(image_folder / "train"), backend=Backend("mixed", 0))
    parser = argparse.ArgumentParser()
    loader.add_arguments(parser)
    args = parser.parse_args("--data-dir x --sweep --sweep-threads 4 8".split())
    swept = sweep.settings(ALTERNATIVES["random_mix"], setting, args)
    assert len(swept) == 10
    chosen = swept["-j 8 --hw-decoder-load 0.9"]
    assert (chosen.workers, chosen.decoder_settings.given()) == (8, {"hw_decoder_load": 0.9})
    assert list(sweep.settings(ALTERNATIVES["timm"], setting, args)) == ["-j 4", "-j 8"]


@pytest.mark.parametrize(("workers", "processes", "batches"), [(2, False, 24), (12, False, 32), (12, True, 40)])
def test_whole_epochs_are_timed_and_of_worker_processes_whole_bursts(image_folder, workers, processes, batches):
    """Epochs of 8 batches: one or two warm up, and two are timed, or two bursts of 12."""
    folder = loader._whole_batches(scan_image_folder(image_folder / "train"), 64, 8)
    taken = []

    @contextlib.contextmanager
    def open_counted(setting):
        yield ((taken.append(index), None) for index in itertools.count())

    segment(Alternative(open_counted, processes), setting_of(folder, workers=workers), None)()
    assert len(taken) == batches


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--data-dir nowhere", "does not exist"),
        ("--only nothing", "no alternative 'nothing'; there are all, none, "),
        ("--only cutmix --baseline none", "--baseline none is not timed"),
        ("--images 12", "--images 12 does not fill whole batches of 8"),
        ("--images 72", "holds 70 images, too few for --images 72"),
        ("-b 128", "too few for one batch of 128"),
        ("-b 7", "--batch-size must be even"),
        ("--batches 0", "--batches must be at least 1"),
        ("--hw-decoder-load 0.5", "needs a GPU"),
        ("--hw-decoder-load 1.5", "must lie in [0, 1]"),
        ("--sweep --only none cutmix", "--sweep takes one alternative, got none cutmix"),
        ("--sweep --baseline none", "leave out --baseline"),
        ("--sweep-threads 2", "need --sweep"),
        ("--sweep --sweep-threads 0", "--sweep-threads must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_one_line(image_folder, flags, message, capsys):
    assert main(["loader", "--data-dir", str(image_folder / "train"), *TINY, *flags.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["none", "nvidia", "torchvision"])
def test_an_image_that_cannot_be_loaded_is_one_line(tmp_path, name, capsys):
    (tmp_path / "a").mkdir()
    for index in range(2):
        (tmp_path / "a" / f"{index}.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    assert main(["loader", "--data-dir", str(tmp_path), *TINY, "-b", "2", "--only", name]) == 2
    error = capsys.readouterr().err
    assert "error: " in error
    assert error.count("\n") == 1


@pytest.mark.gpu
@pytest.mark.parametrize("name", PLAIN)
def test_an_alternative_delivers_on_the_gpu(image_folder, name):
    folder = loader._whole_batches(scan_image_folder(image_folder / "train"), 16, 8)
    setting = setting_of(folder, backend=select_backend("gpu"))
    with ALTERNATIVES[name].open(setting) as batches:
        for images, targets in itertools.islice(batches, 3):
            assert {image.device.type for image in images} == {targets.device.type} == {"cuda"}
