"""Planning: the engine, resources and targets of a start, chosen from a snapshot."""
