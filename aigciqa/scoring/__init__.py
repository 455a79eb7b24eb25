"""Files are scored here. The way of an image, a module each:

1. `sources` lists images: files, folders, patterns, `archives` (read by `tar`), `manifests`; `matching` finds their
   references, and `items` are what comes of it.
2. `decoding` reads them in threads and preprocesses them for each network.
3. `batches` puts them through an `encoder`, the network as it runs fastest; `reference_cache` does so once a reference.
4. `engine` scores their features on `inference_threads`, and makes of each `entry` a `Record` for every metric.
5. `to_file` writes the records to `sinks` (`journal`, `parts`, `resume`, `provenance`), `maps` draws the quality maps,
   `summary` sums up.

Nothing is imported here: the command line reads `sources` without torch, which `engine` needs.
"""
