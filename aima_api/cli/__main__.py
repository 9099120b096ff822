"""`python -m aima_api.cli`: the command `aima`."""

from aima_api.cli.main import main

if __name__ == "__main__":
    main()
