"""Checks a home: accounts for every byte, shows that nothing grows, and verifies where the model came from.

Only the pages, the demo and the command line import this package. It imports `increment`, `home`, `learning`,
`custody`, `model` and the foundation (the modules that `lwm_edge` lists).
"""
