"""What tests of labels share: batches with made-up logits, and blocks of them."""

from dataclasses import replace

import torch

from wmdd.method.batch_sizes import batch_sizes
from wmdd.method.label_batches import draw_epoch
from wmdd.method.soft_labels import LabelBlock
from wmdd.seeding import SeedTree

SIZE, IMAGES, CLASSES = 12, 10, 5
SEEDS = SeedTree(0).child("relabel", "distilled")
SEEN = (IMAGES, SIZE, SEEDS)
EXTREMES = [0.0, -0.0, 65504.0, -65504.0, 2**-24]


def draw(section, epoch, images=IMAGES):
    """One epoch's batches with made-up logits."""
    for batch in draw_epoch(section, epoch, images, SIZE, SEEDS):
        generator = SEEDS.child("logits", epoch, batch.batch).torch()
        logits = torch.randn(len(batch.images), CLASSES, generator=generator).half()
        logits[0] = torch.tensor(EXTREMES)
        yield replace(batch, logits=logits)


def block(section, first, epochs, images=IMAGES):
    drawn = [batch for epoch in range(first, first + epochs) for batch in draw(section, epoch, images)]
    meta = {"first_epoch": first, "epochs": epochs, "batches": len(batch_sizes(section, images)), "classes": CLASSES}
    return drawn, LabelBlock.write(drawn, meta)


def fields(batch):
    tensors = (batch.images, batch.partner, batch.logits, batch.views.box, batch.views.flip, batch.views.roll)
    return (batch.epoch, batch.batch, batch.box, *((str(item.dtype), item.tolist()) for item in tensors))
