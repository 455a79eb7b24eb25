"""From files to RGB images, and to the pixels that a network sees.

`reading` gets the bytes of a file, of an object in a store or of an image inside a Parquet file (`parquet`). `decode`
makes an RGB image of them, with the help of `containers` (which parts of a file matter, and whether all are there),
`libtiff` (errors that are only printed) and `colour` (profiles -> sRGB). `preprocess` resizes, crops and normalises.
`chunks` walks the parts of files. `xmp` reads and sets the properties of XMP, `xmp_in_files` puts it into files.
"""
