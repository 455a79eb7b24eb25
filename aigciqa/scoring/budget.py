"""How much of encoded images is held at a time."""

#: Bytes of encoded images that a run holds between reading and decoding them, whatever the number of images, references
#: and threads: 256 MiB. The images that are being decoded and scored come on top.
CONTENT_BYTES = 256 * 2**20
