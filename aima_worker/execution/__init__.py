"""Execution: from a Celery message to a finished operation; claims, forwarding and redelivery."""
