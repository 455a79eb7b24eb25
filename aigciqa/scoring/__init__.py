"""Files are scored here. The way of an image, a module each:

1. `sources` lists images: files, folders, patterns, `archives` (read by `tar`), `manifests`; `matching` finds their
   references, and `items` are what comes of it.
2. `decoding` reads them in threads and preprocesses them for each network.
3. `encoder` is the network as it runs fastest, in batches; `reference_cache` encodes each reference once.
4. `engine` scores their features, and makes of each image a `Record` for every metric.
5. `to_file` writes the records to `sinks` (`parts` on a cluster), which `resume` goes on with; `maps` draws the
   quality maps, `scores_in_files` writes into the images, `summary` sums up.

Nothing is imported here: the command line reads `sources` without torch, which `engine` needs.
"""
