"""Scheduling: which hosts are feasible, why an operation is pending, and redelivery of unclaimed operations."""
