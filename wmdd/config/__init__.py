"""What a run is: its options in sections, how they are checked, and the recipes, methods and protocols."""
