"""The Docker runtime over the `docker` program."""
