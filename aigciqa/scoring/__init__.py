"""Files are scored here. The way of an image, a module each:

1. `sources` lists items: files, folders, patterns, `archives` (`tar`), tables; with their references and groups.
2. `decoding` reads them in threads and preprocesses them for each network.
3. `batches` puts them through an `encoder`, the network as it runs fastest; `reference_cache` does so once a reference.
4. `engine` scores their features on `inference_threads`, and makes of each `entry` a `Record` for every metric.
5. `sinks` and `parts` write the records, `maps` draws the quality maps, `summary` sums up.

Nothing is imported here: the command line reads `sources` without torch, which `engine` needs.
"""
