"""Networks by name, the weights that people bring, and the teacher."""
