"""The process and its surroundings: CPUs, signals, temporary folders, the terminal."""
