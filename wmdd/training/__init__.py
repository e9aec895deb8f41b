"""Supervised training of teachers and students."""
