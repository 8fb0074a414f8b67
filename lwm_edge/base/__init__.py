"""What a vendor runs once: training a base and writing it as a bundle.

A device needs none of it. This room imports `learning`, `model`, `photos` and the ground.
"""
