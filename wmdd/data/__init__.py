"""Real images: found, indexed, read, and shown in batches and views."""
