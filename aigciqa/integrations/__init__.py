"""Other libraries, each imported only when it is asked for: Ray (`ray`, `shards`), torchmetrics, ONNX.

Scores in training loops: `diffusers`, which writes its pictures with `picture_folder`; and of the checkpoints of
`lightning` and `transformers`, by `checkpoint_scores`.
"""
