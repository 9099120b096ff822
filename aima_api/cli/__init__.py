"""The command line: an HTTP client of the API, and the launcher of AIMA's processes.

Exceptions: `aima engine validate` and `aima doctor` look at this machine without any API (`aima_api.catalog`,
`aima_api.doctor`), and `aima up` is `aima_api.up`. Slow imports happen inside the commands, so that `aima --help`
costs little more than Python itself.
"""
