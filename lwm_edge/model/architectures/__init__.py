"""Provides the networks that a base can start from, and takes each apart into backbone and head.

This package imports `photos` and the foundation (see `lwm_edge`).
"""
