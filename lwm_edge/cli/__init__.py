"""Runs the command line: a command parses, calls one public function, and prints what that returns.

This package may import every other one; for the work itself it calls what `lwm_edge` exports.
"""
