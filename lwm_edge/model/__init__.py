"""Defines a classifier in three forms: a bundle (a file), a network (in torch) and an ONNX file (for apps).

The bundle's manifest, its ledger and its record of custody belong here too. This package imports `photos` and
the foundation (see `lwm_edge`).
"""
