"""Where an answer goes wrong: the first diverging tensor, and the nodes that make it, on any backend.

The ONNX graph is cut and its parts go the way of every model: prepared, loaded, run. `layout` knows where to cut,
`parts` makes the parts, `probe` runs one on the backend and judges it by the reference, `search` decides which.
"""
