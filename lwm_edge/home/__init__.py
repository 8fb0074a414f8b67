"""Keeps the folder in which a device holds its model, and does everything with it but learning.

Reading a home loads no torch. This package imports `custody`, `model`, `photos` and the foundation.
"""
