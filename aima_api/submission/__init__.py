"""Submission: requests become signed operations on the queue."""
