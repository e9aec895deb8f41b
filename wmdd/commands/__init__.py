"""What Python users call: distill, which `wmdd` exports, compare, rank and export, each in a module of its name."""
