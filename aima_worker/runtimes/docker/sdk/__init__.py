"""The Docker runtime over the Docker SDK: the only room that imports `docker`."""
