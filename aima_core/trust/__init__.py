"""Signatures of commands: API nodes sign, workers verify."""
