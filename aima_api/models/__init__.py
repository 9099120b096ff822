"""Sources of models: resolved at their origin to manifests, which are signed and kept in Redis."""
