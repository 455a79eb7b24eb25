"""The study: made, opened, and voted in. What a rater's page is told is a `Step`."""

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal, TypeAlias

from aigciqa.errors import InputError, OutputExistsError
from aigciqa.evaluation.study import schema, sessions
from aigciqa.evaluation.study.settings import Settings
from aigciqa.utils.files import partial
from aigciqa.utils.paths import absolute
from aigciqa.utils.place_files import move

ItemKind: TypeAlias = Literal["rated", "training", "gold"]

_MOST_SECONDS = 86_400.0
_MOST_REASON = 500


@dataclass(frozen=True)
class Entry:
    """An image of a study, or a pair of them.

    Attributes:
        image: its path, as tables are to call it.
        other: in a study of pairs, the path of the image beside it.
        reference: path of the image prompt.
        prompt: the text prompt.
        kind: `rated`; `training`: its votes don't count; `gold`: the right score is known.
        expected: of a gold image, question -> right score.
    """

    image: str
    other: str | None = None
    reference: str | None = None
    prompt: str | None = None
    kind: ItemKind = "rated"
    expected: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Rater:
    """One who rates; `secret` is the end of the rater's own link."""

    id: int
    secret: str
    label: str

    @property
    def name(self) -> str:
        """What tables call the rater: `r1`, `r2`, ..."""
        return f"r{self.id}"


@dataclass(frozen=True)
class Step:
    """What a rater's page shows.

    Attributes:
        status: `rate`, `done` (nothing is left for this rater) or `closed`.
        slot: which showing of an image it is; votes name it.
        question: name of the question.
        pictures: ids of the image, or of the left and the right one.
        reference: id of the image prompt, where the question needs it.
        prompt: the text prompt, where the question needs it.
        upcoming: ids of the pictures that come next, to be loaded ahead.
        notice: what is said first: `begin`, `counts` (training is over), `break`.
        training: whether this vote does not count.
        finished: images done.
        total: images there are for this rater, at most.
        can_undo: whether there is a vote to take back.
    """

    status: Literal["rate", "done", "closed"]
    slot: int | None = None
    question: str | None = None
    pictures: tuple[int, ...] = ()
    reference: int | None = None
    prompt: str | None = None
    upcoming: tuple[int, ...] = ()
    notice: Literal["begin", "counts", "break"] | None = None
    training: bool = False
    finished: int = 0
    total: int = 0
    can_undo: bool = False


def create_study(
    path: str | os.PathLike[str], entries: Iterable[Entry], settings: Settings | None = None, *, anonymous: bool = False
) -> Study:
    """Make the file of a study, whole or not at all, and open it.

    Args:
        path: of the SQLite file; nothing may be there.
        entries: its images, in any order.
        settings: how it is run; by default, one question on quality with five grades.
        anonymous: whether there is one link by which anybody becomes a rater.

    Raises:
        OutputExistsError: something is there.
        InputError: no images to rate; pairs in a study of single images, or the other way round; a gold score that no
            answer has.
        OSError: the file can't be written.

    Example:
        >>> import tempfile
        >>> from aigciqa.evaluation.study import Entry, create_study
        >>> with create_study(f"{tempfile.mkdtemp()}/study.db", [Entry("a.png"), Entry("b.png")]) as study:
        ...     rater = study.invite()
        ...     step = study.step(rater.id)
        ...     study.vote(rater.id, "key-1", step.slot, "quality", 4)[0]
        True
    """
    settings = settings or Settings()
    entries = sorted(entries, key=lambda entry: ("rated", "training", "gold").index(entry.kind))
    _check_entries(entries, settings)
    if os.path.lexists(path):
        raise OutputExistsError(f"{os.fspath(path)!r} is there already: open it, or name another file")
    os.makedirs(os.path.dirname(absolute(path)), exist_ok=True)
    with partial(path) as unfinished:
        os.chmod(unfinished, 0o600)  # it holds the raters' links
        with contextlib.closing(sqlite3.connect(unfinished, isolation_level=None)) as database:
            database.executescript(schema.TABLES)
            database.execute("BEGIN")
            _fill(database, entries, settings, anonymous)
            database.execute("COMMIT")
        move(unfinished, path)
    return Study(path)


def open_study(path: str | os.PathLike[str]) -> Study:
    """Open the file of a study.

    Raises:
        InputError: there is none, it is no study, or one of another version; the file is left as it is.
    """
    return Study(path)


class Study:
    """An open study. Any number of threads may use it; of processes, one at a time may write."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        schema.check(path)
        self.path = absolute(path)
        self._database = schema.connect(self.path, write=True)
        self._lock = threading.Lock()
        row = self._database.execute("SELECT * FROM study").fetchone()
        self.id, self.admin_secret, self.anonymous_secret = row["id"], row["admin"], row["anonymous"]
        self.digest: str = row["digest"]
        self.settings = Settings.from_json(row["settings"])
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
            database.execute("UPDATE study SET closed = ?", [_now() if closed else None])

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
            score: one of the choices.
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
        return self._act(rater, key, slot, None, {"reason": _clean(reason)[:_MOST_REASON]})

    def undo(self, rater: int, key: str) -> tuple[bool, Step]:
        """Take back the rater's last vote or skip: it stays in the file, with a row that cancels it."""
        with self._writing() as database:
            if self._is_known(database, key, rater):
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

    def pictures_of(self, picture: int) -> str | None:
        """The path of a picture of the study."""
        with self._lock:
            row = self._database.execute("SELECT path FROM pictures WHERE id = ?", [picture]).fetchone()
        return os.fsdecode(row[0]) if row else None

    def join(self) -> Rater:
        """Add a rater who comes by the link for anybody."""
        return self.invite("anonymous")

    def _act(
        self, rater: int, key: str, slot: int, question: str | None, values: Mapping[str, Any]
    ) -> tuple[bool, Step]:
        with self._writing() as database:
            if self._is_known(database, key, rater):
                return True, self._step(database, rater)
            current = self._current(database, rater)
            names = [each.name for each in self.settings.questions]
            is_current = current is not None and current["id"] == slot
            if is_current and question is not None:
                is_current = names[current["answered"]] == question
            if not is_current or self._is_closed(database):
                return False, self._step(database, rater)
            about = {"key": key, "rater": rater, "slot": slot, "item": current["item"], "kind": current["kind"]}
            _insert_vote(database, {**about, **values})
            answered = current["answered"] + (question is not None)
            state = "skipped" if question is None else "done" if answered == len(names) else "open"
            self._progress(database, current, answered, state)
            return True, self._step(database, rater)

    def _progress(self, database: sqlite3.Connection, slot: sqlite3.Row, answered: int, state: str) -> None:
        database.execute("UPDATE slots SET answered = ?, state = ? WHERE id = ?", [answered, state, slot["id"]])
        if slot["kind"] == "rated" and (change := (state == "done") - (slot["state"] == "done")):
            database.execute("UPDATE items SET done = done + ? WHERE id = ?", [change, slot["item"]])

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

    def _current(self, database: sqlite3.Connection, rater: int) -> sqlite3.Row | None:
        return next(iter(self._open(database, rater)), None)

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
    def _is_known(database: sqlite3.Connection, key: str, rater: int) -> bool:
        """Whether this very press has been recorded."""
        row = database.execute("SELECT rater FROM votes WHERE key = ?", [key]).fetchone()
        if row is not None and row["rater"] != rater:
            raise InputError("this key is another rater's: reload the page")
        return row is not None

    @staticmethod
    def _is_closed(database: sqlite3.Connection) -> bool:
        return database.execute("SELECT closed FROM study").fetchone()[0] is not None

    @staticmethod
    def _add_rater(database: sqlite3.Connection, label: str) -> Rater:
        secret = new_secret()
        done = database.execute(
            "INSERT INTO raters (secret, label, created) VALUES (?, ?, ?)", [secret, _clean(label)[:200], _now()]
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


def digest_of(entries: Iterable[Entry], settings: Settings) -> str:
    """What two studies of the same images and settings have in common."""
    rows = sorted(json.dumps([*_cells(entry), sorted(entry.expected.items())]) for entry in entries)
    return hashlib.sha256("\n".join([settings.to_json(), *rows]).encode()).hexdigest()


def _cells(entry: Entry) -> tuple[str | None, ...]:
    return (entry.kind, entry.image, entry.other, entry.reference, entry.prompt)


def _check_entries(entries: Sequence[Entry], settings: Settings) -> None:
    if not any(entry.kind == "rated" for entry in entries):
        raise InputError("a study needs at least one image to rate, or in pairs, two of one prompt")
    for entry in entries:
        if (entry.other is not None) != (settings.method == "pairs"):
            wanted = "pairs of images" if settings.method == "pairs" else "single images"
            raise InputError(f"{entry.image}: the method {settings.method} takes {wanted}")
        for name, score in entry.expected.items():
            low, high = settings.score_range
            if name not in settings.by_name or not low <= score <= high:
                raise InputError(
                    f"{entry.image}: a gold score is of one of the questions ({', '.join(settings.by_name)}) and from "
                    f"{low:g} to {high:g}; got {name} {score:g}"
                )


def _fill(database: sqlite3.Connection, entries: Sequence[Entry], settings: Settings, anonymous: bool) -> None:
    database.execute(
        "INSERT INTO study VALUES (1, ?, ?, ?, ?, ?, ?, ?, NULL)",
        [secrets.token_hex(4), new_secret(), new_secret(), new_secret() if anonymous else None, settings.to_json(),
         digest_of(entries, settings), _now()],
    )  # fmt: skip
    ids: dict[str, int] = {}
    for entry in entries:
        for name in (entry.image, entry.other, entry.reference):
            if name is not None and name not in ids:
                ids[name] = len(ids) + 1
    rows = ((number, os.fsencode(name), os.fsencode(absolute(name))) for name, number in ids.items())
    database.executemany("INSERT INTO pictures VALUES (?, ?, ?)", rows)
    for number, entry in enumerate(entries, 1):
        pictures = [None if name is None else ids[name] for name in (entry.image, entry.other, entry.reference)]
        prompt = None if entry.prompt is None else _clean(entry.prompt)
        database.execute(
            "INSERT INTO items (id, kind, image, other, reference, prompt) VALUES (?, ?, ?, ?, ?, ?)",
            [number, entry.kind, *pictures, prompt],
        )
        expected = [(number, name, float(score)) for name, score in entry.expected.items()]
        database.executemany("INSERT INTO expected VALUES (?, ?, ?)", expected)


def _insert_vote(database: sqlite3.Connection, values: Mapping[str, Any]) -> None:
    row = {**values, "at": _now()}
    marks = ", ".join("?" * len(row))
    database.execute(f"INSERT INTO votes ({', '.join(row)}) VALUES ({marks})", list(row.values()))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _clamped(value: float | None) -> float | None:
    """A measurement of the page, of which nothing is believed but its size."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST_SECONDS:
        return None
    return float(value)


def _clean(text: str) -> str:
    """Text that SQLite takes: no half of a surrogate pair, no NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")
