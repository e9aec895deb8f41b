"""Named parts of ImageNet-1K, as classes of the full tree."""

from __future__ import annotations

from wmdd.config.base import Subset
from wmdd.data.layouts.classes import all_class_names
from wmdd.data.layouts.listing import Listing
from wmdd.errors import DataError

# Positions in ImageNet-1K's sorted WordNet ids, in the order in which the field numbers the classes.
_PLACES: dict[Subset, tuple[int, ...]] = {
    "imagenette": (0, 217, 482, 491, 497, 566, 569, 571, 574, 701),
    "imagewoof": (193, 182, 258, 162, 155, 167, 159, 273, 207, 229),
    "imagemeow": (281, 282, 283, 284, 285, 291, 292, 290, 289, 287),
    "imagesquawk": (84, 130, 88, 144, 145, 22, 96, 9, 100, 89),
    "imagefruit": (953, 954, 949, 950, 951, 957, 952, 945, 943, 948),
    "imageyellow": (309, 986, 954, 951, 987, 779, 599, 291, 72, 11),
}


def refuse_whole(recipe: str, url: str, listing: Listing) -> None:
    """Raise DataError for a full ImageNet-1K tree under the recipe of one of its parts, before its images are read."""
    if recipe in _PLACES and len(all_class_names(url, listing)) == 1000:
        raise DataError(
            f"data.path={url}: has 1,000 classes, as ImageNet-1K, and recipe {recipe} is for ten of them; add "
            f"--data.subset {recipe}, or take recipe imagenet-1k"
        )


def subset_classes(subset: Subset, url: str, listing: Listing) -> tuple[str, ...]:
    """Return the classes of a subset of a full ImageNet-1K tree; only their images are read.

    Raises:
        DataError: if the set does not have 1,000 classes.
    """
    names = all_class_names(url, listing)
    if len(names) != 1000:
        raise DataError(
            f"data.subset={subset}: is cut out of all 1,000 classes of ImageNet-1K, and {url} has {len(names)}; give "
            "the full tree, or leave data.subset out"
        )
    return tuple(names[place] for place in _PLACES[subset])
