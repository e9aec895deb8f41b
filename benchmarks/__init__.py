"""One file or folder per question; each prints JSON lines."""
