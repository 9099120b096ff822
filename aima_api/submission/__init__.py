"""Submission: turns requests into signed operations on their queues, and cancels them."""
