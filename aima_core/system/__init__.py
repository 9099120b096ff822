"""Operating-system pieces: background loops, the state directory and die-with-parent."""
