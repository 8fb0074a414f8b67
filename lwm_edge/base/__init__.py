"""Builds what a vendor ships: trains a base and writes it as a bundle.

No device needs this package. It imports `learning`, `model`, `photos` and the foundation.
"""
