"""Manages the folder in which a device keeps its model: everything except learning.

Reading a home does not load torch. This package imports `custody`, `model`, `photos` and the foundation (see
`lwm_edge`).
"""
