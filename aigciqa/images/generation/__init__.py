"""How a picture was generated, as its file or a file beside it says: a stranger's text, so damaged is as good as none.

`read` goes this way: `embedded` collects the texts of a file (`exif` those of EXIF), `tools` knows which tool writes
what into which, with `infotext` for AUTOMATIC1111's text and `comfyui` for graphs, and `parameters` cleans every value.
"""
