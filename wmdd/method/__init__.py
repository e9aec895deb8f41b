"""The method: barycenters, moments, recovery of images, and soft labels, as the paper has them."""
