"""Work that is started ahead, with results in order."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

from aigciqa.utils.lookahead import look_ahead, map_ahead


def test_items_are_fetched_ahead_and_given_in_order() -> None:
    fetched: list[int] = []
    ahead = look_ahead((fetched.append(number) or number for number in range(5)), 2)
    assert next(ahead) == 0
    assert fetched == [0, 1, 2]
    assert list(ahead) == [1, 2, 3, 4]
    assert list(look_ahead([], 3)) == []


def test_calls_run_side_by_side_on_items_without_end() -> None:
    together = threading.Barrier(3)
    with ThreadPoolExecutor(3) as pool:
        results = map_ahead(pool, lambda number: (together.wait(), number)[1], itertools.count(), 2)
        assert list(itertools.islice(results, 4)) == [0, 1, 2, 3]
        together.abort()
