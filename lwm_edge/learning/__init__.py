"""Implements Learning without Memorizing, and the baselines that it is compared with.

The package works on the networks and photos that are passed to it, and knows nothing of homes, files or
processes. It imports `model`, `photos` and the foundation (see `lwm_edge`).
"""
