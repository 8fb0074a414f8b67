"""Signatures that lead from the vendor's base to this model.

Keys are made and read here, bases are signed, and the chain of changes is recorded and checked. This room
imports `model` and the ground.
"""
