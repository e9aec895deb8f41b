"""The command line ``wmdd``."""
