"""Adds classes and photos: plans an increment, learns it (for apps, in a process of its own) and commits it.

An interrupted increment can be resumed. Known classes can be renamed, merged and removed. Here `home` and
`learning` meet: this package imports both of them, `custody`, `model`, `photos` and the foundation.
"""
