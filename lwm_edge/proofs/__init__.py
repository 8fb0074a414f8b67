"""Checks a home: accounts for every byte, shows that nothing grows, and verifies where the model came from.

No package below imports this one. It imports `increment`, `home`, `learning`, `custody`, `model` and the
foundation.
"""
