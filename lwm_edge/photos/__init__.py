"""From a folder of photos to pixels, in training, evaluation and prediction alike.

There is no second way from a photo to a network's input. This room imports nothing but the ground:
`records`, `errors`, `storage` and `memory`.
"""
