"""The exceptions of the library; everything else raises Python's own `TypeError` and `ValueError`."""

from __future__ import annotations


class ImageError(ValueError):
    """A picture that can't be read: missing, truncated, bomb-sized, of an unknown format or mode."""


class CheckpointError(ValueError):
    """A head whose `config.json` or `model.safetensors` is missing, malformed or altered."""


class HubError(RuntimeError):
    """A head that can't be had from the Hugging Face Hub; the message names the ways out."""
