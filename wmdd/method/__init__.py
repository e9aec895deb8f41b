"""The method: barycenters, moments, recovery of images, and soft labels, as the paper has them."""

from typing import Any

from wmdd.process.exports import public

PUBLIC = {
    "artifacts": ("Barycenter", "ClassStatistics", "DistilledClass", "ImageSet"),
    "barycenter": ("free_support_barycenter",),
    "losses": ("batch_norm_loss", "feature_loss", "soft_label_loss"),
    "moments": ("Moments",),
    "recovery": ("Target", "recover_images"),
    "soft_labels": ("LabelBlock", "SoftLabels"),
}


def __getattr__(name: str) -> Any:
    """Return a public name."""
    return public(__name__, PUBLIC, name)
