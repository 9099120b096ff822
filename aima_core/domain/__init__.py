"""Domain types without I/O: ids, units, the catalog schema, services, operations and resources."""
