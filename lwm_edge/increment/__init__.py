"""Teaches new classes and more photos: plans an increment, learns it (by default in workers) and commits it.

An interrupted increment can be resumed. This package also renames, merges and removes known classes,
calibrates the score for unknown objects, checks photos, and teaches those that arrive in an inbox. It is the
place where `home` and `learning` meet; it imports `custody`, `model`, `photos` and the foundation too.
"""
