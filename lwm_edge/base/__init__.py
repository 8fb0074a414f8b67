"""Builds what a vendor ships: trains a base and writes it as a bundle.

A device needs none of it. This package imports `learning`, `model`, `photos` and the foundation.
"""
