"""Layers that stand in for torch's, with the same weights and answers."""
