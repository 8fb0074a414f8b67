"""Makes and checks the signatures that lead from the vendor's base to the current model.

The package makes and reads keys, signs bases, and records and checks the chain of changes. It imports `model`
and the foundation (the modules that `lwm_edge` lists).
"""
