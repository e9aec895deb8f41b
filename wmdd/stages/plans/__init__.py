"""What each stage plans, without the libraries that it computes with, whose import takes seconds."""
