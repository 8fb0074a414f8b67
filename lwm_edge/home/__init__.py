"""The folder in which a device keeps its model, and all that is done with it but learning.

What only reads a home loads no torch. This room imports `custody`, `model`, `photos` and the ground.
"""
