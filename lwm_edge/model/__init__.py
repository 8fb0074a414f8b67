"""Holds one classifier in three forms: a bundle (file), a network (torch) and an ONNX file (what apps load).

The bundle's manifest, its ledger and its record of custody belong here too. This package imports `photos` and
the foundation.
"""
