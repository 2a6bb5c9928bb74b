"""A loader knows what mixes its batches: the two implementations do not continue each other."""

import pytest
from nvidia.dali import fn, pipeline_def, types

from dali_mix import ConfigError, MixLoader, native
from dali_mix import fn as mix
from dali_mix.data import Augmentation, scan_image_folder
from pipelines.imagenet import imagenet_train
from tests.implementations import need_native

ERASING = Augmentation(reprob=0.5)


_FLIPS = Augmentation()


@pytest.fixture(scope="module")
def state_of(image_folder):
    """A state of an implementation, or what a new loader of it says to one."""
    need_native()
    folder = scan_image_folder(image_folder / "train")

    def make(mode, state=None, augmentation=_FLIPS):
        options = {"batch_size": 8, "img_size": 32, "device": "cpu", "num_threads": 2, "augmentation": augmentation}
        with native.using(mode):
            loader = MixLoader(imagenet_train(folder, **options))
        with loader:
            if state is not None:
                return loader.load_state_dict(state)
            next(loader)
            return loader.state_dict()

    return make


@pytest.mark.parametrize(("saved", "own", "remedy"), [("on", "off", "=on"), ("off", "on", "=off")])
def test_a_state_of_the_other_implementation_is_refused(state_of, saved, own, remedy):
    with pytest.raises(ConfigError, match=f"random numbers differ: set DALI_MIX_NATIVE{remedy}, or begin anew"):
        state_of(own, state_of(saved))
    state_of(saved, state_of(saved))


def test_a_state_from_before_there_were_two_is_refused(state_of):
    state = state_of("on")
    del state["fingerprint"]["mixing"]
    with pytest.raises(ConfigError, match="saved by another version"):
        state_of("on", state)


def of_old(state, mixing):
    """The state as a version saved it whose augmentation was always the portable graph."""
    fingerprint = {name: value for name, value in state["fingerprint"].items() if name != "augmentation"}
    return state | {"fingerprint": fingerprint | {"mixing": mixing}}


def test_the_loader_knows_what_augments(state_of):
    found = {mode: state_of(mode, augmentation=ERASING)["fingerprint"]["augmentation"] for mode in ("on", "off")}
    assert found == {"on": "native", "off": "portable"}
    assert state_of("on")["fingerprint"]["augmentation"] is None


def test_a_state_whose_augmentation_alone_is_another_is_refused(state_of):
    """As where the mixing is in a loop of its own."""
    state = state_of("off", augmentation=ERASING)
    state["fingerprint"]["mixing"] = "native"
    with pytest.raises(ConfigError, match="the portable implementation of the augmentation, here it is the native"):
        state_of("on", state, ERASING)


def test_an_older_state_is_refused_where_the_native_operators_augment(state_of):
    reason = r"which augmented by the portable graph, here it is the native .* set DALI_MIX_NATIVE=off, or begin anew"
    with pytest.raises(ConfigError, match=reason) as caught:
        state_of("on", of_old(state_of("on", augmentation=ERASING), None), ERASING)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("own", ["on", "off"])
def test_an_older_state_with_native_mixing_is_promised_no_switch(state_of, own):
    """It was augmented by the portable graph: no graph of today is like it."""
    with pytest.raises(ConfigError, match="for the augmentation differ: begin anew, or continue with the version that"):
        state_of(own, of_old(state_of(own, augmentation=ERASING), "native"), ERASING)


def test_an_older_state_goes_on_where_the_augmentation_is_the_same(state_of):
    state_of("off", of_old(state_of("off", augmentation=ERASING), "portable"), ERASING)
    state_of("on", of_old(state_of("on"), "native"))


def test_a_pipeline_without_our_operators_has_no_implementation(image_folder):
    @pipeline_def(batch_size=4, num_threads=1, device_id=None)
    def host():
        return fn.readers.file(file_root=str(image_folder / "train"))[1]

    assert mix.implementation_of(host()) is None
    assert mix.implementation_of(host(), "augmentation") is None


def test_a_batch_of_several_branches_is_refused(image_folder, implementation):
    """Inside an ``if`` each side chooses for itself, so the merged batch has no branch of its own."""

    @pipeline_def(batch_size=8, num_threads=1, device_id=None, enable_conditionals=True, seed=5)
    def host():
        jpegs, labels = fn.readers.file(file_root=str(image_folder / "train"), pad_last_batch=True, name="reader")
        images = fn.resize(fn.decoders.image(jpegs), size=[8, 8])
        if fn.random.coin_flip(dtype=types.BOOL):
            images, targets, _, branch = mix.random_mix(images, labels, num_classes=10, choices={"cutmix": 1.0})
        else:
            images, targets, _, branch = mix.random_mix(images, labels, num_classes=10, choices={"mixup": 1.0})
        return images, targets, labels, branch

    with MixLoader(host()) as loader, pytest.raises(ConfigError, match="samples of several branches"):
        for _ in loader:
            pass
