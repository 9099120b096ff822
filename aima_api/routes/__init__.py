"""The front door, one file per noun."""
