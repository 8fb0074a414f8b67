"""Implements the method, Learning without Memorizing, and what it is compared with.

It works on networks and photos that it is handed, and knows no homes, no files and no processes. This package
imports `model`, `photos` and the foundation.
"""
