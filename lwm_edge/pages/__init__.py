"""Makes pages to look at in a browser, each from one template.

A page is one file, which includes its pictures, has no script and requests nothing. This package is above
the proofs, whose verdicts it shows, and below the command line.
"""
