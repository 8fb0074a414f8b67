"""Adds classes and photos: plans the increment, learns it (for an app, in another process), and commits it.

An interrupted increment can be resumed. Known classes can be renamed, merged and removed. Here `home` and
`learning` meet: this package imports both of them, `custody`, `model`, `photos` and the foundation.
"""
