"""Checks of this machine: `aima doctor`."""
