"""The study's SQLite file: its tables, how it is made and opened, and what is no study.

Votes are only ever added. An undone vote stays, and a row of the opposite sign is added; so sums over `sign` are counts
of what holds. Triggers keep them in the tallies, by which the study's page is as fast with a million votes as with ten.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from aigciqa.errors import InputError

#: "aiqS": tells a study from other SQLite files.
APPLICATION_ID = 0x61697153
VERSION = 1
#: So long one waits for another program that holds the file.
WAIT_SECONDS = 30.0
#: A vote within so many seconds is no judgement.
QUICK_SECONDS = 1.0

TABLES = f"""
CREATE TABLE study (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    id TEXT NOT NULL, secret TEXT NOT NULL, admin TEXT NOT NULL, anonymous TEXT,
    settings TEXT NOT NULL, digest TEXT NOT NULL, created TEXT NOT NULL, closed TEXT
);
CREATE TABLE pictures (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, path BLOB NOT NULL);
CREATE TABLE items (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('rated', 'training', 'gold')),
    image INTEGER NOT NULL REFERENCES pictures, other INTEGER REFERENCES pictures,
    reference INTEGER REFERENCES pictures, prompt TEXT, grouping TEXT, generator TEXT,
    done INTEGER NOT NULL DEFAULT 0  -- raters who have answered all questions
);
CREATE INDEX items_by_votes ON items (kind, done, id);
CREATE TABLE expected (item INTEGER REFERENCES items, question TEXT, score REAL NOT NULL, PRIMARY KEY (item, question));
CREATE TABLE raters (
    id INTEGER PRIMARY KEY AUTOINCREMENT, secret TEXT NOT NULL UNIQUE, label TEXT NOT NULL, created TEXT NOT NULL,
    finished INTEGER NOT NULL DEFAULT 0, skipped INTEGER NOT NULL DEFAULT 0  -- slots, those for training aside
);
CREATE TABLE slots (  -- what a rater is shown, in this order
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    rater INTEGER NOT NULL REFERENCES raters, position INTEGER NOT NULL, item INTEGER NOT NULL REFERENCES items,
    kind TEXT NOT NULL CHECK (kind IN ('rated', 'training', 'gold', 'repeat')), repeats INTEGER REFERENCES slots,
    swapped INTEGER NOT NULL, assigned REAL NOT NULL, answered INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'skipped')),
    UNIQUE (rater, position)
);
CREATE INDEX slots_by_item ON slots (rater, item);
CREATE INDEX open_slots ON slots (rater, position) WHERE state = 'open';
CREATE TABLE votes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE,
    rater INTEGER NOT NULL REFERENCES raters, slot INTEGER NOT NULL REFERENCES slots,
    item INTEGER NOT NULL REFERENCES items, kind TEXT NOT NULL,
    question TEXT, score REAL, reason TEXT,  -- without question: the image was skipped
    seconds REAL, scale REAL, at TEXT NOT NULL,
    sign INTEGER NOT NULL DEFAULT 1 CHECK (sign IN (1, -1)), undoes INTEGER UNIQUE REFERENCES votes,
    CHECK ((question IS NULL) = (score IS NULL)), CHECK ((sign = -1) = (undoes IS NOT NULL))
);
CREATE INDEX votes_by_rater ON votes (rater, id);
CREATE INDEX votes_by_slot ON votes (slot);
CREATE INDEX quick_votes ON votes (rater, sign) WHERE seconds < {QUICK_SECONDS} AND kind = 'rated';
CREATE INDEX gold_votes ON votes (rater) WHERE kind = 'gold';
CREATE INDEX repeat_votes ON votes (rater) WHERE kind = 'repeat';
CREATE INDEX skips ON votes (item) WHERE question IS NULL;
CREATE TRIGGER votes_stay BEFORE UPDATE ON votes BEGIN SELECT RAISE(ABORT, 'votes are never changed'); END;

CREATE TABLE item_tally (
    item INTEGER, question TEXT, votes INTEGER NOT NULL, total REAL NOT NULL, squares REAL NOT NULL,
    PRIMARY KEY (item, question)
) WITHOUT ROWID;
CREATE TABLE rater_tally (
    rater INTEGER, question TEXT, score REAL, votes INTEGER NOT NULL, PRIMARY KEY (rater, question, score)
) WITHOUT ROWID;
CREATE TRIGGER vote_counts AFTER INSERT ON votes WHEN NEW.kind = 'rated' AND NEW.question IS NOT NULL BEGIN
    INSERT OR IGNORE INTO item_tally VALUES (NEW.item, NEW.question, 0, 0, 0);
    UPDATE item_tally
        SET votes = votes + NEW.sign, total = total + NEW.sign * NEW.score,
            squares = squares + NEW.sign * NEW.score * NEW.score
        WHERE item = NEW.item AND question = NEW.question;
    INSERT OR IGNORE INTO rater_tally VALUES (NEW.rater, NEW.question, NEW.score, 0);
    UPDATE rater_tally SET votes = votes + NEW.sign
        WHERE rater = NEW.rater AND question = NEW.question AND score = NEW.score;
END;
CREATE TRIGGER vote_goes AFTER DELETE ON votes WHEN OLD.kind = 'rated' AND OLD.question IS NOT NULL BEGIN
    UPDATE item_tally
        SET votes = votes - OLD.sign, total = total - OLD.sign * OLD.score,
            squares = squares - OLD.sign * OLD.score * OLD.score
        WHERE item = OLD.item AND question = OLD.question;
END;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""


def connect(path: str | os.PathLike[str], *, write: bool) -> sqlite3.Connection:
    """Open a study that `check` has passed; what is committed stays, even if the machine loses power."""
    if write:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=WAIT_SECONDS)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")
        connection.executescript("BEGIN IMMEDIATE; ROLLBACK")  # a file that can't be written is told now
    else:
        connection = _read_only(path)
    connection.row_factory = sqlite3.Row
    return connection


def check(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless a file is a study of this version; nothing is written."""
    name = os.fspath(path)
    if not os.path.isfile(path):
        raise InputError(f"{name!r}: no such study; name images to make it, as in aigciqa rate outputs/ --study {name}")
    application, version = _marks(path)
    if application != APPLICATION_ID:
        raise InputError(f"{name!r} is no study of aigciqa rate: name another file with --study")
    if version != VERSION:
        who = "a newer aigciqa made it: update" if version > VERSION else "an older aigciqa made it: use that one"
        raise InputError(f"{name!r} is a study of version {version}, this aigciqa reads version {VERSION}; {who}")


@contextlib.contextmanager
def named_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the study whose file is damaged, or in use by another program."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise InputError(f"{os.fspath(path)!r} can't be used: {error}") from error


def is_study(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a study, of any version."""
    return os.path.isfile(path) and _marks(path)[0] == APPLICATION_ID


def place_of(study: str | os.PathLike[str], row: sqlite3.Row) -> str:
    """Where a picture is: where it was, or else beside a study that has moved with its pictures."""
    path = os.fsdecode(row["path"])
    beside = os.path.join(os.path.dirname(study), os.fsdecode(row["name"]))
    return beside if not os.path.lexists(path) and os.path.isfile(beside) else path


def _marks(path: str | os.PathLike[str]) -> tuple[int, int]:
    """What stands in the file's header; it is read as bytes, so that SQLite makes no files beside a stranger's."""
    try:
        with open(path, "rb") as stream:
            header = stream.read(100)
    except OSError as error:
        raise InputError(f"{os.fspath(path)!r}: {error.strerror or error}") from None
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        return 0, 0
    return int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big")


def _read_only(path: str | os.PathLike[str]) -> sqlite3.Connection:
    place = Path(path).absolute()
    # Even to read, SQLite makes files beside it; where it can't, nobody writes the study, unless such files are there.
    still = not os.access(place.parent, os.W_OK) and not os.path.lexists(f"{place}-wal")
    address = f"{place.as_uri()}?mode=ro{'&immutable=1' if still else ''}"
    # One thread at a time, though not the same: the server sends the votes by whichever is free.
    return sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False, timeout=WAIT_SECONDS)
