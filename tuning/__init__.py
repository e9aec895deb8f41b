"""Searching the options of a recipe, above all the weight of the batch-norm term, with Ray Tune."""
