"""Checks what anyone can check in a home: every byte, that nothing grows, and where its model came from.

No package below imports this one. It imports `increment`, `home`, `learning`, `custody`, `model` and the
foundation.
"""
