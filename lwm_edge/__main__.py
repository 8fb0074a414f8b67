"""`python -m lwm_edge`."""

from ._cli import main

main()
