"""Implements the method, Learning without Memorizing, and what it is compared with.

It works on networks and photos that it is given, and knows of no homes, files or processes. This package
imports `model`, `photos` and the foundation.
"""
