"""Controllers: the background loop of API nodes; one node at a time leads for the hosts."""
