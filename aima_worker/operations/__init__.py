"""The steps of start, stop and pull, and what they share: images, ports, readiness and teardown."""
