"""Where timm numbers the classes of a folder otherwise."""

from __future__ import annotations

from dali_mix.sources.folder import ImageFolder


def differs_from_timm(folder: ImageFolder) -> str | None:
    """Name in one line the first class that timm gives another number; None if there is none.

    Args:
        folder: whose classes are its folders, not those of a class map.

    See ``timm/data/readers/reader_image_folder.py``, ``find_images_and_targets``.
    """
    ours, theirs = folder.classes, _timm_order(folder)
    if theirs is None or list(ours) == theirs:
        return None
    most = min(len(ours), len(theirs))
    label = next((index for index in range(most) if ours[index] != theirs[index]), most)
    here, there = (repr(names[label]) if label < len(names) else "no class" for names in (ours, theirs))
    return (
        f"class numbers are not timm's: label {label} is {here} here and {there} there, as timm takes the innermost "
        f"folders, and sorts them by their numbers and without case; weights that timm has trained need --class-map "
        f"FILE in its order"
    )


def _timm_order(folder: ImageFolder) -> list[str] | None:
    """timm's classes, None where it cannot sort them."""
    from timm.utils.misc import natural_key  # timm takes seconds to import, which only listing a folder does without

    places = {path.rpartition("/")[0] for path in folder.files}
    try:
        return sorted({place.rpartition("/")[2] for place in places}, key=natural_key)
    except (ValueError, TypeError):  # a name such as "²"
        return None
