"""Databases of rated AI-generated images, in the layouts their authors publish.

    db = aigciqa.load_database("agiqa-3k", "AGIQA-3K")
    split = db.split("prompt-disjoint", seed=0)

A database is one name below and one module of that name with a `SPEC` and a `load`.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aigciqa.databases.database import Database, DatabaseSpec
from aigciqa.databases.sample import Sample
from aigciqa.databases.splits import Split
from aigciqa.errors import InputError
from aigciqa.utils.paths import absolute, at_home

__all__ = ["Database", "DatabaseSpec", "Sample", "Split", "database_info", "list_databases", "load_database"]

_NAMES = ("pku-i2iqa", "pku-aigiqa-4k", "agiqa-1k", "agiqa-3k", "aigciqa2023", "folder")


def list_databases(pattern: str = "*") -> list[str]:
    """Names of the databases that match a shell pattern, in the table's order.

    Example:
        >>> import aigciqa
        >>> aigciqa.list_databases("pku-*")
        ['pku-i2iqa', 'pku-aigiqa-4k']
    """
    return [name for name in _NAMES if fnmatch.fnmatchcase(name, pattern)]


def database_info(name: str) -> DatabaseSpec:
    """What is known of a database without its files: where to download it, its layout, license and score ranges.

    Raises:
        InputError: unknown name; the message suggests near ones.
    """
    spec: DatabaseSpec = _module(name).SPEC
    return spec


def load_database(name: str, root: str | os.PathLike[str], **options: Any) -> Database:
    """Read a database's labels; its layout is checked, and that every image is there, but none is opened.

    Example:
        >>> import aigciqa, pathlib, tempfile
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (root / "manifest.csv").write_text("image,prompt,quality\\ncat.png,a cat,3.5\\n")
        >>> (root / "cat.png").touch()
        >>> database = aigciqa.load_database("folder", root, score_range={"quality": (1, 5)})
        >>> database.samples[0].group, database.samples[0].scores
        ('a cat', {'quality': 3.5})

    Args:
        name: one of `list_databases()`.
        root: the folder of the database, as downloaded and unpacked.
        options: `subset="all" | "i2i" | "t2i"` for `pku-aigiqa-4k`; `manifest`, `score_range` and `dimensions` for
            `folder`.

    Raises:
        DatabaseError: the folder is not the database as published; the message lists every problem that was found.
        MissingExtraError: a package of the extra `train` is missing.
        InputError: unknown name, an option the database does not have, or an unknown value of one.
    """
    load: Callable[..., Database] = _module(name).load
    known = list(inspect.signature(load).parameters)[1:]
    unknown = [option for option in options if option not in known]
    if unknown:
        has = f"its options: {', '.join(known)}" if known else "it has none"
        raise InputError(f"database {name!r} has no option {unknown[0]!r}; {has}")
    return load(Path(absolute(at_home(os.fspath(root)))), **options)


def _module(name: str) -> Any:
    if name not in _NAMES:
        near = difflib.get_close_matches(str(name).lower(), _NAMES, n=2)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise InputError(f"unknown database {name!r}{hint} Known databases: {', '.join(_NAMES)}.")
    return importlib.import_module(f"aigciqa.databases.{name.replace('-', '_')}")
