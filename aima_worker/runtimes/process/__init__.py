"""The native runtime: engines as processes of this host."""
