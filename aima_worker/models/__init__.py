"""Models of this host: fetched from their origin into a store, verified, published, listed and removed."""
