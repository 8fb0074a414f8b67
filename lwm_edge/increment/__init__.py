"""Adding classes: planned, learnt in a process of its own, resumable, and committed by another one.

This room brings `home` and `learning` together. It imports both of them, `custody`, `model`, `photos` and
the ground.
"""
