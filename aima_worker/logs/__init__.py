"""Container logs: tails, the collector that stores and publishes lines, and the server of log requests."""
