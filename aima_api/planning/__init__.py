"""Planning: which engine, hosts and resources a start uses; writes nothing."""
