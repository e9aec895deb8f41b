"""Networks by name, weights from files and libraries, and the teacher."""
