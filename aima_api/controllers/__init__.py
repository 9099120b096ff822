"""Controllers: background loops of API nodes, one leader at a time."""
