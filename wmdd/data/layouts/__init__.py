"""What lies below the root of a set: which folders and files are its splits, classes and images."""
