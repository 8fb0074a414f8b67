"""One classifier in three forms: a bundle (the file), a network (torch) and an ONNX file (what apps load).

The bundle's manifest, its ledger and its record of custody belong to it. This room imports `photos` and the
ground.
"""
