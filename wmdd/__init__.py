"""Dataset distillation with the Wasserstein metric."""
