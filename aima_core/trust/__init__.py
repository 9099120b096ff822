"""Trust: keys, orders and signed records; API nodes sign, workers verify."""
