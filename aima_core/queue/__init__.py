"""The task queue: the Celery application, its transport, task messages and queue names."""
