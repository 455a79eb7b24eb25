"""What a rater is shown next: training images first, then each image once, with gold images and repeats in between."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import dataclass

from aigciqa.evaluation.study.settings import StudySettings

#: A rater who has been shown an image so many seconds ago, and has not voted, holds it no longer for others.
HELD_SECONDS = 1800.0
#: Between two gold images, or two repeats, are about so many others.
_INTERVAL = 10
#: An image is repeated after so many others.
_GAP = 5


@dataclass(frozen=True)
class Sizes:
    """How many items of each kind a study has. The rated ones have the first ids."""

    rated: int
    training: int
    gold: int


@dataclass(frozen=True)
class Shown:
    """How many slots of each kind a rater has, and how many are finished, training aside."""

    rated: int
    training: int
    gold: int
    repeat: int
    finished: int
    trained: int

    @classmethod
    def of(cls, database: sqlite3.Connection, rater: int) -> Shown:
        """Count them."""
        counts = [f"COUNT(*) FILTER (WHERE kind = '{kind}')" for kind in ("rated", "training", "gold", "repeat")]
        counts += [f"COUNT(*) FILTER (WHERE state <> 'open' AND kind {is_} 'training')" for is_ in ("<>", "=")]
        return cls(*database.execute(f"SELECT {', '.join(counts)} FROM slots WHERE rater = ?", [rater]).fetchone())


def rated_limit(settings: StudySettings, sizes: Sizes) -> int:
    """The images that a rater rates, at most."""
    return sizes.rated if settings.images_per_rater is None else min(sizes.rated, settings.images_per_rater)


def total(database: sqlite3.Connection, settings: StudySettings, sizes: Sizes, shown: Shown) -> int:
    """How many a rater will have finished in the end, training aside; at most, where others take part in it."""
    limit = rated_limit(settings, sizes)
    if settings.votes_per_image is not None:
        query = "SELECT COUNT(*) FROM items WHERE kind = 'rated' AND done < ?"
        limit = min(limit, shown.rated + database.execute(query, [settings.votes_per_image]).fetchone()[0])
    return int(limit + sizes.gold + min(settings.repeats, limit))


def assign(
    database: sqlite3.Connection, settings: StudySettings, sizes: Sizes, rater: int, now: float, *, least: int = 2
) -> None:
    """See to it that a rater has so many open slots, as long as there is something to show: this one and the next."""
    if settings.votes_per_image is not None:  # what was left open, and others have rated meanwhile
        database.execute(
            "DELETE FROM slots WHERE rater = ? AND state = 'open' AND kind = 'rated' AND assigned <= ? "
            "AND (SELECT done FROM items WHERE id = item) >= ? "
            "AND NOT EXISTS (SELECT 1 FROM votes WHERE slot = slots.id)",
            [rater, now - HELD_SECONDS, settings.votes_per_image],
        )
    count = database.execute("SELECT COUNT(*) FROM slots WHERE rater = ? AND state = 'open'", [rater]).fetchone()[0]
    for _ in range(least - count):
        last = database.execute("SELECT MAX(position) FROM slots WHERE rater = ?", [rater]).fetchone()[0]
        position = 1 if last is None else last + 1
        chooser = _Chooser(database, settings, sizes, rater, position, now)
        chosen = chooser.choose(Shown.of(database, rater))
        if chosen is None:
            return
        item, kind, repeats = chosen
        swapped = int(settings.method == "pairs" and chooser.random.random() < 0.5)
        database.execute(
            "INSERT INTO slots (rater, position, item, kind, repeats, swapped, assigned) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [rater, position, item, kind, repeats, swapped, now],
        )


class _Chooser:
    """Chooses the item of one slot: (item, kind, slot that it repeats)."""

    def __init__(
        self, database: sqlite3.Connection, settings: StudySettings, sizes: Sizes, rater: int, position: int, now: float
    ) -> None:
        self.database, self.settings, self.sizes = database, settings, sizes
        self.rater, self.position, self.now = rater, position, now
        self.random = random.Random(f"{settings.seed}/{rater}/{position}")
        self.limit = rated_limit(settings, sizes)

    def choose(self, shown: Shown) -> tuple[int, str, int | None] | None:
        if shown.training < self.sizes.training:
            return self._unseen("training", in_order=True)
        chosen = None
        if self._is_due(shown.gold, self.sizes.gold, shown.rated):
            chosen = self._unseen("gold")
        if chosen is None and self._is_due(shown.repeat, min(self.settings.repeats, self.limit), shown.rated):
            chosen = self._repeat(_GAP)
        if chosen is None and shown.rated < self.limit:
            chosen = self._rated()
        if chosen is None:
            chosen = self._unseen("gold")
        if chosen is None and shown.repeat < min(self.settings.repeats, self.limit):
            chosen = self._repeat(1)
        return chosen

    def _is_due(self, given: int, of: int, rated: int) -> bool:
        interval = max(1, min(_INTERVAL, self.limit // (of + 1)))
        return given < of and rated >= (given + 1) * interval - self.random.randrange(interval // 2 + 1)

    def _unseen(self, kind: str, *, in_order: bool = False) -> tuple[int, str, int | None] | None:
        unseen = self._ids(
            "SELECT id FROM items WHERE kind = ? AND id NOT IN (SELECT item FROM slots WHERE rater = ?) ORDER BY id",
            kind, self.rater,
        )  # fmt: skip
        if not unseen:
            return None
        return (unseen[0] if in_order else self.random.choice(unseen)), kind, None

    def _repeat(self, gap: int) -> tuple[int, str, int | None] | None:
        slots = self._ids(
            "SELECT id FROM slots WHERE rater = ? AND kind = 'rated' AND state = 'done' AND position < ? "
            "AND id NOT IN (SELECT repeats FROM slots WHERE rater = ? AND repeats IS NOT NULL)",
            self.rater, self.position - gap, self.rater,
        )  # fmt: skip
        if not slots:
            return None
        slot = self.random.choice(slots)
        item = self._ids("SELECT item FROM slots WHERE id = ?", slot)[0]
        return item, "repeat", slot

    def _rated(self) -> tuple[int, str, int | None] | None:
        """An item that the rater has not seen: any, or where votes are counted, the least voted."""
        most = self.settings.votes_per_image
        if most is None:
            item = self._from_random_start("TRUE")
        else:
            levels = self._ids("SELECT DISTINCT done FROM items WHERE kind = 'rated' AND done < ? ORDER BY done", most)
            held = f"id NOT IN (SELECT item FROM slots WHERE state = 'open' AND assigned > {self.now - HELD_SECONDS})"
            found = (self._from_random_start(f"kind = 'rated' AND done = {level} AND {held}") for level in levels)
            item = next((each for each in found if each is not None), None)
            if item is None:
                item = self._held_by_others(most)
        return None if item is None else (item, "rated", None)

    def _from_random_start(self, condition: str) -> int | None:
        start = self.random.randint(1, max(1, self.sizes.rated))
        for low, high in ((start, self.sizes.rated), (1, start - 1)):
            found = self._ids(
                f"SELECT id FROM items WHERE {condition} AND id BETWEEN ? AND ? "
                "AND NOT EXISTS (SELECT 1 FROM slots WHERE rater = ? AND item = items.id) ORDER BY id LIMIT 1",
                low, high, self.rater,
            )  # fmt: skip
            if found:
                return found[0]
        return None

    def _held_by_others(self, most: int) -> int | None:
        """One that others look at now and that will still need votes after theirs."""
        found = self._ids(
            "SELECT item FROM slots JOIN items ON items.id = item AND items.kind = 'rated' "
            "WHERE state = 'open' AND assigned > ? AND item NOT IN (SELECT item FROM slots WHERE rater = ?) "
            "GROUP BY item HAVING done + COUNT(*) < ? ORDER BY done + COUNT(*), item LIMIT 1",
            self.now - HELD_SECONDS, self.rater, most,
        )  # fmt: skip
        return found[0] if found else None

    def _ids(self, query: str, *values: object) -> list[int]:
        return [row[0] for row in self.database.execute(query, values)]
