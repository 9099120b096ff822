"""The command line: an HTTP client of the API, and the launcher of AIMA's processes."""
