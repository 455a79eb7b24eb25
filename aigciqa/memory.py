"""One budget for the memory of all images that this process decodes at a time."""

from __future__ import annotations

import os
import threading
from collections import deque

from aigciqa.errors import ImageError

#: What images that are decoded at a time take together, at most. One that takes more is decoded alone.
BUDGET = 2 * 2**30


class Share:
    """What one image takes of the budget, from its header on until its pixels are no longer needed.

    Use it as a context manager, in which `take` is called once the size is known.
    """

    def __init__(self) -> None:
        self.is_waiting = False
        self._size = 0
        self._is_over = False

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def take(self, size: int) -> None:
        """Wait until so many bytes are free, first come first served.

        Raises:
            ImageError: it was given back meanwhile.
        """
        state = _state
        with state.changed:
            state.queue.append(self)
            self.is_waiting = True
            try:
                while not self._is_over and not (state.queue[0] is self and state.has_room(size)):
                    state.changed.wait()
            finally:
                self.is_waiting = False
                state.queue.remove(self)
                state.changed.notify_all()
            if self._is_over:
                raise ImageError("the run was stopped")
            self._size = size
            state.taken += size

    def give_back(self) -> None:
        """End it, from any thread, any number of times."""
        state = _state
        with state.changed:
            state.taken -= self._size
            self._size, self._is_over = 0, True
            state.changed.notify_all()


class _State:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.taken = 0
        self.queue: deque[Share] = deque()

    def has_room(self, size: int) -> bool:
        return self.taken == 0 or self.taken + size <= BUDGET


_state = _State()


def _start_afresh() -> None:
    global _state
    _state = _State()


if hasattr(os, "register_at_fork"):  # the parent's threads, which would give back, are not in the child
    os.register_at_fork(after_in_child=_start_afresh)
