"""An image file's bytes, its header and its pixels."""
