"""A run: its plan, the board of tasks, one function that runs a task anywhere, and what is seen of it."""
