"""The command line: it parses, calls one public function, and prints what that returns.

This room may import every other one; the work itself it asks for by the names that `lwm_edge` gives.
"""
