"""The command line: an HTTP client of the API, and the launcher of AIMA's processes.

`aima engine validate`, `aima doctor` and `aima up` need no API: they use `aima_api.catalog`, `aima_api.doctor` and
`aima_api.up`. Slow imports are inside functions, since `aima --help` may cost at most five times Python's own start.
"""
