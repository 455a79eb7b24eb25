"""References (image prompts), which images that stand near each other usually share."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from aigciqa.scoring.decoding import DecoderPool, Decoding, Preprocessed
from aigciqa.scoring.encoder import BatchEncoder, Encoder

if TYPE_CHECKING:
    from aigciqa.records import Content, Item

#: References that are remembered, decoded or encoded.
MAX_REFERENCES = 1024


@dataclass(eq=False)
class Reference:
    """A reference on its way: decoded, then encoded by each network that needs it."""

    name: str  # what errors call it
    key: tuple[Any, ...]  # differs from that of any other reference
    decoding: Decoding | None  # None when its pixels are no longer needed
    lock: threading.Lock = field(default_factory=threading.Lock)  # held while it is encoded
    features: dict[Encoder, Tensor | None] = field(default_factory=dict)  # (D,); None: it does not fit in memory


class ReferenceCache:
    """Has each distinct reference decoded and encoded once, by `encoders`, and remembers the latest ones."""

    def __init__(self, pool: DecoderPool, batches: BatchEncoder, encoders: Iterable[Encoder]) -> None:
        self.pool = pool
        self.batches = batches
        self.encoders = frozenset(encoders)
        self.specs = tuple(dict.fromkeys(each.spec for each in self.encoders))
        self.kept: OrderedDict[tuple[Any, ...], Reference] = OrderedDict()

    def find(self, item: Item) -> Reference | None:
        """The reference of an item, whose decoding is begun unless it is known; None if there is none, or no need."""
        path, content = item.reference, item.reference_content
        if not self.encoders or (path is None and content is None):
            return None
        key = _version(path or "") if content is None else _digest(content)
        reference = self.kept.pop(key, None)
        if reference is None:
            name = path or ("" if content is None else "bytes")
            reference = Reference(name, key, self.pool.submit(name, content, self.specs))
        self.kept[key] = reference
        while len(self.kept) > MAX_REFERENCES:
            self.kept.popitem(last=False)
        return reference

    def wait(self, reference: Reference) -> Preprocessed:
        """Wait until a reference is decoded; empty if its pixels are no longer needed. Raises ImageError."""
        decoding = reference.decoding
        return {} if decoding is None else self.pool.result(decoding)

    def forget_pixels(self, reference: Reference) -> None:
        """Forget the reference of an image that failed, unless it was encoded for another: nothing may ever need it."""
        if not reference.features:
            self.kept.pop(reference.key, None)

    def features(self, encoder: Encoder, references: Sequence[Reference]) -> list[Tensor | None]:
        """Features (D,) of decoded references, which are encoded by whichever thread needs them first.

        None for one that does not fit in memory.
        """
        fresh = {id(each): each for each in references if encoder not in each.features}
        with ExitStack() as locks:
            for _, reference in sorted(fresh.items()):  # in one order: two threads never wait for each other
                locks.enter_context(reference.lock)
            still_fresh = [each for each in fresh.values() if encoder not in each.features]
            pixels = [self.wait(each)[encoder.spec] for each in still_fresh]
            for reference, encoded in zip(still_fresh, self.batches.encode(encoder, pixels), strict=True):
                reference.features[encoder] = None if encoded is None else encoded.features
                if reference.features.keys() == self.encoders:
                    reference.decoding = None
        return [each.features[encoder] for each in references]


def _version(path: str) -> tuple[Any, ...]:
    """What tells a file from what was there before under the same path."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # a NUL byte in the name
        return (path,)
    return path, status.st_size, status.st_mtime_ns


def _digest(content: Content) -> tuple[Any, ...]:
    data = content if isinstance(content, bytes) else content.tobytes()
    return hashlib.sha256(data).digest(), getattr(content, "shape", None)
