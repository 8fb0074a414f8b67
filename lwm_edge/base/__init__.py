"""Builds the base that a vendor ships: trains a network, or adopts a trained one, and writes a bundle.

No device needs this package. It imports `learning`, `model`, `photos` and the foundation.
"""
