"""The study: opened, and voted in."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Literal

from aigciqa.errors import InputError
from aigciqa.evaluation.study import schema, sessions
from aigciqa.evaluation.study.settings import BETTER, StudySettings
from aigciqa.evaluation.study.steps import Rater, Step
from aigciqa.utils.paths import absolute

_MOST_SECONDS = 86_400.0
_MOST_REASON = 500
_KEY_LENGTH = 8


def open_study(path: str | os.PathLike[str]) -> Study:
    """Open the file of a study.

    Raises:
        InputError: there is none, it is no study, or one of another version; the file is left as it is.
    """
    return Study(path)


class Study:
    """An open study. Any number of threads may use it; of processes, one at a time may write.

    Example:
        >>> import tempfile
        >>> from aigciqa.evaluation.study import Entry, create_study
        >>> with create_study(f"{tempfile.mkdtemp()}/study.db", [Entry("a.png")]) as study:
        ...     rater = study.invite("on the phone")
        ...     step = study.step(rater.id)
        ...     recorded, after = study.vote(rater.id, "made-up-key", step.slot, step.question, 5)
        >>> recorded, after.status
        (True, 'done')
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        schema.check(path)
        self.path = absolute(path)
        self._lock = threading.Lock()
        with schema.named_errors(path):
            self._database = schema.connect(self.path, write=True)
            row = self._database.execute("SELECT * FROM study").fetchone()
        self.id, self.admin_secret, self.anonymous_secret = row["id"], row["admin"], row["anonymous"]
        self.digest: str = row["digest"]
        self.settings = StudySettings.from_json(row["settings"])
        self._secret = str(row["secret"]).encode()
        counts = dict(self._database.execute("SELECT kind, COUNT(*) FROM items GROUP BY kind").fetchall())
        self.sizes = sessions.Sizes(*(counts.get(kind, 0) for kind in ("rated", "training", "gold")))

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def reading(self) -> contextlib.closing[sqlite3.Connection]:
        """A connection of its own, which reads and holds up no vote."""
        return contextlib.closing(schema.connect(self.path, write=False))

    def sign(self, *parts: object) -> str:
        """A token that only who has the study's file can make."""
        return hmac.new(self._secret, json.dumps(parts).encode(), hashlib.sha256).hexdigest()[:32]

    def invite(self, label: str = "") -> Rater:
        """Add a rater; the label is for whoever runs the study."""
        with self._writing() as database:
            return self._add_rater(database, label)

    def rater(self, secret: str) -> Rater | None:
        """The rater of a link's end."""
        with self._lock:
            row = self._database.execute("SELECT id, secret, label FROM raters WHERE secret = ?", [secret]).fetchone()
        return Rater(*row) if row else None

    def raters(self) -> list[Rater]:
        """All of them, in the order in which they were invited."""
        with self._lock:
            return [Rater(*row) for row in self._database.execute("SELECT id, secret, label FROM raters ORDER BY id")]

    def delete_rater(self, rater: int) -> None:
        """Remove a rater and all that is stored of the rater; the file keeps no trace (`secure_delete`).

        Raises:
            InputError: there is no such rater.
        """
        with self._writing() as database:
            if not database.execute("SELECT 1 FROM raters WHERE id = ?", [rater]).fetchone():
                raise InputError(f"there is no rater r{rater}")
            database.execute(
                "UPDATE items SET done = done - 1 WHERE kind = 'rated' AND id IN "
                "(SELECT item FROM slots WHERE rater = ? AND kind = 'rated' AND state = 'done')",
                [rater],
            )
            database.execute("PRAGMA defer_foreign_keys = ON")  # undone votes and repeats refer to others of the rater
            for table, column in (("votes", "rater"), ("slots", "rater"), ("rater_tally", "rater"), ("raters", "id")):
                database.execute(f"DELETE FROM {table} WHERE {column} = ?", [rater])
        with self._lock:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @property
    def is_closed(self) -> bool:
        """Whether no more votes are taken."""
        with self._lock:
            return self._is_closed(self._database)

    def set_closed(self, closed: bool) -> None:
        """Close the study, or open it again."""
        with self._writing() as database:
            database.execute("UPDATE study SET closed = ?", [now() if closed else None])

    def set_anonymous(self, anonymous: bool) -> None:
        """Make the link by which anybody becomes a rater, or take it back."""
        secret = self.anonymous_secret or new_secret() if anonymous else None
        with self._writing() as database:
            database.execute("UPDATE study SET anonymous = ?", [secret])
        self.anonymous_secret = secret

    def step(self, rater: int) -> Step:
        """What a rater is shown now."""
        with self._writing() as database:
            return self._step(database, rater)

    def vote(
        self,
        rater: int,
        key: str,
        slot: int,
        question: str,
        score: float,
        seconds: float | None = None,
        scale: float | None = None,
    ) -> tuple[bool, Step]:
        """Record a vote; it is on the disk when this returns.

        Args:
            rater: id of the rater.
            key: made anew for each press of a button: a vote that is sent again counts once.
            slot: that of the step that was shown.
            question: that of the step that was shown.
            score: one of the choices; of a pair 1 where the first of the step's pictures is better, 0 where the second.
            seconds: from the image's showing to the press.
            scale: at which the image was shown: screen pixels per image pixel.

        Returns:
            Whether it is recorded, and what comes next. It is not recorded where the rater has answered in another tab
            already, or the study is closed.

        Raises:
            InputError: no choice, or a key that another rater used.
        """
        if not self.settings.is_choice(score):
            raise InputError(f"score {score!r} is no choice of this study: a vote without a choice is not recorded")
        values = {"question": question, "score": float(score), "seconds": _clamped(seconds), "scale": _clamped(scale)}
        return self._act(rater, key, slot, question, values)

    def skip(self, rater: int, key: str, slot: int, reason: str) -> tuple[bool, Step]:
        """Record that a rater skips an image, and why; what is returned is as for `vote`."""
        return self._act(rater, key, slot, None, {"reason": clean(reason)[:_MOST_REASON]})

    def undo(self, rater: int, key: str) -> tuple[bool, Step]:
        """Take back the rater's last vote or skip: it stays in the file, with a row that cancels it."""
        with self._writing() as database:
            if self._is_known(database, key, rater, -1):
                return True, self._step(database, rater)
            last = self._last(database, rater)
            if last is None or self._is_closed(database):
                return False, self._step(database, rater)
            columns = ("rater", "slot", "item", "kind", "question", "score", "reason", "seconds", "scale")
            values = {name: last[name] for name in columns}
            _insert_vote(database, {**values, "key": key, "sign": -1, "undoes": last["id"]})
            slot = database.execute("SELECT * FROM slots WHERE id = ?", [last["slot"]]).fetchone()
            answered = slot["answered"] - (last["question"] is not None)
            self._progress(database, slot, answered, "open")
            return True, self._step(database, rater)

    def path_of(self, picture: int) -> str | None:
        """The path of a picture of the study."""
        with self._lock:
            row = self._database.execute("SELECT path, name FROM pictures WHERE id = ?", [picture]).fetchone()
        return None if row is None else schema.place_of(self.path, row)

    def _act(
        self, rater: int, key: str, slot: int, question: str | None, values: Mapping[str, Any]
    ) -> tuple[bool, Step]:
        with self._writing() as database:
            if self._is_known(database, key, rater, 1):
                return True, self._step(database, rater)
            current = self._current(database, rater, slot, question)
            if current is None or self._is_closed(database):
                return False, self._step(database, rater)
            if current["swapped"] and question is not None:
                values = {**values, "score": BETTER - values["score"]}
            about = {"key": key, "rater": rater, "slot": slot, "item": current["item"], "kind": current["kind"]}
            _insert_vote(database, {**about, **values})
            answered = current["answered"] + (question is not None)
            state = "skipped" if question is None else "done" if answered == len(self.settings.questions) else "open"
            self._progress(database, current, answered, state)
            return True, self._step(database, rater)

    def _progress(self, database: sqlite3.Connection, slot: sqlite3.Row, answered: int, state: str) -> None:
        database.execute("UPDATE slots SET answered = ?, state = ? WHERE id = ?", [answered, state, slot["id"]])
        if slot["kind"] == "rated" and (change := (state == "done") - (slot["state"] == "done")):
            database.execute("UPDATE items SET done = done + ? WHERE id = ?", [change, slot["item"]])
        if slot["kind"] != "training":
            finished = (state != "open") - (slot["state"] != "open")
            skipped = (state == "skipped") - (slot["state"] == "skipped")
            database.execute(
                "UPDATE raters SET finished = finished + ?, skipped = skipped + ? WHERE id = ?",
                [finished, skipped, slot["rater"]],
            )

    def _step(self, database: sqlite3.Connection, rater: int) -> Step:
        settings, sizes = self.settings, self.sizes
        closed = self._is_closed(database)
        if not closed:
            sessions.assign(database, settings, sizes, rater, time.time())
        shown = sessions.Shown.of(database, rater)
        total = sessions.total(database, settings, sizes, shown)
        slots = self._open(database, rater)
        can_undo = not closed and self._last(database, rater) is not None
        if closed or not slots:
            finished = shown.finished
            return Step("closed" if closed else "done", finished=finished, total=total, can_undo=can_undo)
        current = slots[0]
        question = settings.questions[current["answered"]]
        item, swapped = self._item(database, current)
        upcoming = [picture for slot in slots[1:] for picture in self._pictures(*self._item(database, slot))]
        if any(each.with_prompt for each in settings.questions):
            later = [item, *(self._item(database, slot)[0] for slot in slots[1:])]
            upcoming += [each["reference"] for each in later if each["reference"] is not None]
        return Step(
            "rate",
            slot=current["id"],
            question=question.name,
            pictures=self._pictures(item, swapped),
            reference=item["reference"] if question.with_prompt else None,
            prompt=item["prompt"] if question.with_prompt else None,
            upcoming=tuple(dict.fromkeys(upcoming)),
            notice=self._notice(current, shown),
            training=current["kind"] == "training",
            finished=shown.trained if current["kind"] == "training" else shown.finished,
            total=sizes.training if current["kind"] == "training" else total,
            can_undo=can_undo,
        )

    def _notice(self, slot: sqlite3.Row, shown: sessions.Shown) -> Literal["begin", "counts", "break"] | None:
        if slot["answered"]:
            return None
        if shown.trained + shown.finished == 0:
            return "begin"
        if slot["kind"] == "training":
            return None
        if shown.finished == 0:
            return "counts"
        every = self.settings.break_every
        return "break" if every and shown.finished % every == 0 else None

    @staticmethod
    def _item(database: sqlite3.Connection, slot: sqlite3.Row) -> tuple[sqlite3.Row, bool]:
        return database.execute("SELECT * FROM items WHERE id = ?", [slot["item"]]).fetchone(), bool(slot["swapped"])

    @staticmethod
    def _pictures(item: sqlite3.Row, swapped: bool) -> tuple[int, ...]:
        pair = [each for each in (item["image"], item["other"]) if each is not None]
        return tuple(reversed(pair) if swapped else pair)

    @staticmethod
    def _open(database: sqlite3.Connection, rater: int) -> Sequence[sqlite3.Row]:
        query = "SELECT * FROM slots WHERE rater = ? AND state = 'open' ORDER BY position LIMIT 2"
        return database.execute(query, [rater]).fetchall()

    def _current(self, database: sqlite3.Connection, rater: int, slot: int, question: str | None) -> sqlite3.Row | None:
        """The rater's slot, if it is this one and this is its question (None: any)."""
        current = next(iter(self._open(database, rater)), None)
        if current is None or current["id"] != slot:
            return None
        return current if question in (None, self.settings.questions[current["answered"]].name) else None

    @staticmethod
    def _last(database: sqlite3.Connection, rater: int) -> sqlite3.Row | None:
        """The rater's last vote or skip that holds."""
        row: sqlite3.Row | None = database.execute(
            "SELECT * FROM votes WHERE rater = ? AND sign = 1 "
            "AND NOT EXISTS (SELECT 1 FROM votes AS later WHERE later.undoes = votes.id) ORDER BY id DESC LIMIT 1",
            [rater],
        ).fetchone()
        return row

    @staticmethod
    def _is_known(database: sqlite3.Connection, key: str, rater: int, sign: int) -> bool:
        """Whether this very press has been recorded."""
        if len(key) < _KEY_LENGTH:
            raise InputError(f"a vote's key has at least {_KEY_LENGTH} characters; got {key!r}")
        row = database.execute("SELECT rater, sign FROM votes WHERE key = ?", [key]).fetchone()
        if row is not None and tuple(row) != (rater, sign):
            raise InputError("this key is another vote's: reload the page")
        return row is not None

    @staticmethod
    def _is_closed(database: sqlite3.Connection) -> bool:
        return database.execute("SELECT closed FROM study").fetchone()[0] is not None

    @staticmethod
    def _add_rater(database: sqlite3.Connection, label: str) -> Rater:
        secret = new_secret()
        done = database.execute(
            "INSERT INTO raters (secret, label, created) VALUES (?, ?, ?)", [secret, clean(label)[:200], now()]
        )
        return Rater(int(done.lastrowid or 0), secret, label)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, on the disk when the block ends; if it fails, nothing of it stays."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise


def new_secret() -> str:
    """The end of a link that nobody guesses: 128 bits."""
    return secrets.token_urlsafe(16)


def _insert_vote(database: sqlite3.Connection, values: Mapping[str, Any]) -> None:
    row = {**values, "at": now()}
    marks = ", ".join("?" * len(row))
    database.execute(f"INSERT INTO votes ({', '.join(row)}) VALUES ({marks})", list(row.values()))


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _clamped(value: float | None) -> float | None:
    """A measurement of the page, of which nothing is believed but its size."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST_SECONDS:
        return None
    return float(value)


def clean(text: str) -> str:
    """Text that SQLite takes: no half of a surrogate pair, no NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")
