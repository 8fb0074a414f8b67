"""Makes the ONNX file that apps load, and other forms of that file.

A vendor traces the graph once (`tracing`, `lowering`). A device checks it and fills in a bundle's tensors
(`checks`, `graph`), compares the file with the network (`parity`), and makes other forms (`variants`,
`comparison`).
"""
