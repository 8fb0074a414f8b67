"""Runs the command line: each command parses its arguments, calls public functions and prints the result.

This package may import any other package, but does its work through the functions that `lwm_edge` exports.
"""
