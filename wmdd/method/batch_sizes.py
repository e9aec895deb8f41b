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


def with_equal_steps(section: RelabelConfig, base: int, num_images: int) -> RelabelConfig:
    """Return the section with which students of a larger set have the same budget as those of a set of `base` images.

    A step has as many images, at most `base`, but the two that batch-norm needs. The epochs have about as many steps in
    all: they are rounded to the nearest number, and one at least.
    """
    if num_images == base:
        return section
    steps = section.epochs * len(batch_sizes(section, base))
    batch = min(section.batch_size, max(2, base))
    changed = section.model_copy(update={"batch_size": batch, "micro_batch": min(section.micro_batch, batch)})
    return changed.model_copy(update={"epochs": max(1, round(steps / len(batch_sizes(changed, num_images))))})
