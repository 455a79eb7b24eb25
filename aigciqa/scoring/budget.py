"""One bound on the bytes of encoded images that a run holds at a time."""

from __future__ import annotations

import threading
from typing import Literal

#: Bytes of encoded images that a run holds between reading and decoding them, whatever the number of images, references
#: and threads: 256 MiB. The images that are being decoded and scored come on top.
CONTENT_BYTES = 256 * 2**20

#: Contents are given with an item, or read by a decoding thread.
Origin = Literal["given", "read"]


class Budget:
    """Bytes of encoded images that may be held; who would exceed it waits.

    A content that is larger than the whole budget passes when no other of its origin is held. So there is always one of
    each origin on its way, and nobody waits for someone who waits.
    """

    def __init__(self) -> None:
        self.limit = CONTENT_BYTES
        self.held: dict[Origin, int] = {"given": 0, "read": 0}
        self.changed = threading.Condition()

    def take(self, size: int, origin: Origin, seconds: float | None = None) -> bool:
        """Take so many bytes; False if there was no room within so many seconds."""
        with self.changed:
            fits = self.changed.wait_for(lambda: self._has_room(size, origin), seconds)
            if fits:
                self.held[origin] += size
            return fits

    def give_back(self, size: int, origin: Origin) -> None:
        """Make room for others."""
        with self.changed:
            self.held[origin] -= size
            self.changed.notify_all()

    def _has_room(self, size: int, origin: Origin) -> bool:
        return not self.held[origin] or sum(self.held.values()) + size <= self.limit
