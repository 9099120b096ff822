"""The Docker runtime over the Docker SDK."""
