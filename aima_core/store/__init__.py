"""Records in Redis, one store per aggregate."""
