"""Makes and checks the signatures that lead from the vendor's base to the current model.

Keys are made and read here, bases are signed, and the chain of changes is recorded and checked. This package
imports `model` and the foundation.
"""
