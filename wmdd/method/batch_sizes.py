"""How an epoch of an image set is cut into batches; without torch, because plans count steps."""

from __future__ import annotations

from wmdd.config.students import RelabelConfig


def batch_sizes(section: RelabelConfig, num_images: int) -> list[int]:
    """Return the number of images of each batch of an epoch, in which every image occurs once.

    The last batch may be smaller. If it would be of one image, that joins the batch before, since batch-norm needs two.
    """
    whole, rest = divmod(num_images, section.batch_size)
    sizes = [section.batch_size] * whole + ([rest] if rest else [])
    if len(sizes) > 1 and rest == 1:
        sizes[-2:] = [section.batch_size + 1]
    return sizes


def epochs_of_equal_steps(section: RelabelConfig, base: int, num_images: int) -> int:
    """Return the epochs in which a set has about as many steps as a set of `base` images in ``relabel.epochs``.

    They are rounded to the nearest number, and one at least.
    """
    steps = section.epochs * len(batch_sizes(section, base))
    return max(1, round(steps / len(batch_sizes(section, num_images))))
