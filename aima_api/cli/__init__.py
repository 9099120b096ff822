"""The command line: an HTTP client of the API, and the launcher of AIMA's processes.

It imports the nouns of `aima_core`, an HTTP library and the terminal libraries. Two exceptions: `aima engine
validate` and `aima doctor` look at this machine without any API (`aima_api.catalog_files`, `aima_api.doctor`), and
`aima up` is `aima_api.up`. Whatever is slow to import is imported inside the commands, so that `aima --help` costs
little more than Python itself.
"""
