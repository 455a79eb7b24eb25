"""Making the file of a study, from its images and settings."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from aigciqa.errors import InputError, OutputExistsError
from aigciqa.evaluation.study import schema
from aigciqa.evaluation.study.settings import StudySettings
from aigciqa.evaluation.study.store import Study, clean, new_secret, now
from aigciqa.utils.files import partial
from aigciqa.utils.paths import absolute
from aigciqa.utils.place_files import move

ItemKind: TypeAlias = Literal["rated", "training", "gold"]


@dataclass(frozen=True)
class Entry:
    """An image of a study, or a pair of them.

    Attributes:
        image: its path, as tables are to call it.
        other: in a study of pairs, the path of the image beside it.
        reference: path of the image prompt.
        prompt: the text prompt.
        group: what tables group it under.
        generator: the model that made it.
        kind: `rated`; `training`: its votes don't count; `gold`: the right score is known.
        expected: of a gold image, question -> right score.

    Example:
        >>> from aigciqa.evaluation.study import Entry
        >>> Entry("broken.png", kind="gold", expected={"quality": 1}).kind
        'gold'
    """

    image: str
    other: str | None = None
    reference: str | None = None
    prompt: str | None = None
    group: str | None = None
    generator: str | None = None
    kind: ItemKind = "rated"
    expected: Mapping[str, float] = field(default_factory=dict)


def create_study(
    path: str | os.PathLike[str],
    entries: Iterable[Entry],
    settings: StudySettings | None = None,
) -> Study:
    """Make the file of a study, whole or not at all, and open it.

    Args:
        path: of the SQLite file; nothing may be there.
        entries: its images, in any order.
        settings: how it is run; by default, one question on quality with five grades.

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
        ...     study.vote(rater.id, "key-of-1", step.slot, "quality", 4)[0]
        True
    """
    settings = settings or StudySettings()
    entries = sorted(entries, key=lambda entry: ("rated", "training", "gold").index(entry.kind))
    _check_entries(entries, settings)
    if os.path.lexists(path):
        raise OutputExistsError(f"{os.fspath(path)!r} is there already: open it, or name another file")
    left = f"{os.fspath(path)}-wal"
    if os.path.lexists(left) and os.path.getsize(left):  # SQLite would take it for part of the new file
        raise OutputExistsError(f"{left!r} is left of a study that is gone: remove it, or name another file")
    os.makedirs(os.path.dirname(absolute(path)), exist_ok=True)
    with partial(path) as unfinished:
        os.chmod(unfinished, 0o600)  # it holds the raters' links
        with contextlib.closing(sqlite3.connect(unfinished, isolation_level=None)) as database:
            database.executescript(f"BEGIN; {schema.TABLES}")
            _fill(database, entries, settings)
            database.execute("COMMIT")
        move(unfinished, os.fspath(path))
    return Study(path)


def digest_of(entries: Iterable[Entry], settings: StudySettings) -> str:
    """What two studies of the same images and settings have in common."""
    rows = sorted(json.dumps([*_cells(entry), sorted(entry.expected.items())]) for entry in entries)
    return hashlib.sha256("\n".join([settings.to_json(), *rows]).encode()).hexdigest()


def _cells(entry: Entry) -> tuple[str | None, ...]:
    return (entry.kind, entry.image, entry.other, entry.reference, entry.prompt, entry.group, entry.generator)


def _check_entries(entries: Sequence[Entry], settings: StudySettings) -> None:
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


def _fill(database: sqlite3.Connection, entries: Sequence[Entry], settings: StudySettings) -> None:
    database.execute(
        "INSERT INTO study VALUES (1, ?, ?, ?, NULL, ?, ?, ?, NULL)",
        [secrets.token_hex(4), new_secret(), new_secret(), settings.to_json(), digest_of(entries, settings), now()],
    )
    ids: dict[str, int] = {}
    for entry in entries:
        for name in (entry.image, entry.other, entry.reference):
            if name is not None and name not in ids:
                ids[name] = len(ids) + 1
    rows = ((number, os.fsencode(name), os.fsencode(absolute(name))) for name, number in ids.items())
    database.executemany("INSERT INTO pictures VALUES (?, ?, ?)", rows)
    for number, entry in enumerate(entries, 1):
        pictures = [None if name is None else ids[name] for name in (entry.image, entry.other, entry.reference)]
        texts = [None if text is None else clean(text) for text in (entry.prompt, entry.group, entry.generator)]
        database.execute(
            "INSERT INTO items (id, kind, image, other, reference, prompt, grouping, generator)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [number, entry.kind, *pictures, *texts],
        )
        expected = [(number, name, float(score)) for name, score in entry.expected.items()]
        database.executemany("INSERT INTO expected VALUES (?, ?, ?)", expected)
