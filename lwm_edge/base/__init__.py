"""Builds the base that a vendor ships: trains a network, or adopts a trained one, and writes a bundle.

This package is for vendors, not for devices. It imports `learning`, `model`, `photos` and the foundation
(the modules that `lwm_edge` lists).
"""
