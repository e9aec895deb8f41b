"""One file per question; each prints JSON lines."""
