"""Ideas for better images, tried in a plain loop; run it with ``python -m benchmarks.trials``."""
