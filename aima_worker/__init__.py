"""Runs on each host: carries out commands as containers. No HTTP server."""
