"""Adds classes: plans the increment, learns it in one process, and exports and commits it in another.

An interrupted increment can be resumed. Here `home` and `learning` meet: this package imports both of them,
`custody`, `model`, `photos` and the foundation.
"""
