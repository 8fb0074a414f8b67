"""The networks that a base can start from, and how each comes apart into backbone and head.

This room imports `photos` and the ground.
"""
