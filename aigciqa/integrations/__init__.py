"""Other libraries, each imported only when it is asked for: Ray (`ray`, `shards`), torchmetrics, ONNX."""
