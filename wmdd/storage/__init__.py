"""Folders and files at any URL, and the artifact store that is keyed by content."""
