"""Makes pages to look at: each one file from one template, which asks nothing of the network.

It stands above the proofs, whose verdicts it shows, and below the command line.
"""
