"""Dataset distillation with the Wasserstein metric: barycenters, moments, recovery of images, soft labels."""
