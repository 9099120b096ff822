"""Domain types: ids, units, the catalog schema, services, operations and resources. Pure: no I/O."""
