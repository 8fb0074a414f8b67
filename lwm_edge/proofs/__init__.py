"""What anyone can check of a home: every byte, that nothing grows, and where its model came from.

Nothing below knows of it. This room imports `increment`, `home`, `learning`, `custody`, `model` and the
ground.
"""
