"""The commands of `aima`, one module per noun."""
