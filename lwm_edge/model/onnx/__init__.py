"""The ONNX file: traced once at the vendor's (`tracing`, `lowering`), checked and filled with a bundle's
tensors on the device (`checks`, `graph`), compared with the network (`parity`), and turned into smaller or
quicker forms (`variants`).
"""
