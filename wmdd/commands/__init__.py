"""What Python users call: distill, compare, rank, export."""
