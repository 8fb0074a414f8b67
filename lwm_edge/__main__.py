"""Runs the command line as `python -m lwm_edge`."""

from .cli.commands import main

main()
