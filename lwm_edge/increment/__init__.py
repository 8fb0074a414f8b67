"""Teaches new or known classes: plans an increment, learns (by default in workers) and commits the result.

An interrupted increment can be resumed. This package also renames, merges and removes known classes,
calibrates the score for unknown objects, checks photos, and teaches the model from photos that arrive in an
inbox. It combines `home` and `learning`, and also imports `custody`, `model`, `photos` and the foundation
(see `lwm_edge`).
"""
