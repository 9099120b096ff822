"""Operating-system pieces that both sides use: background loops, the state directory, die-with-parent."""
