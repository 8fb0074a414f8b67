"""Turns photos into pixels, in training, evaluation and prediction alike.

There is no other way from a photo to a network's input. This package imports nothing but the foundation (the
modules that `lwm_edge` lists).
"""
