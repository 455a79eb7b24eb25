"""The page: a template filled with the figures, the pictures and the scripts, written in one piece."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

import aigciqa
from aigciqa.report import sections
from aigciqa.report.collection import FAILURE_LIMIT, Collection
from aigciqa.report.payload import GALLERY_LIMIT, payload, select_gallery
from aigciqa.report.thumbnails import Thumbnails

if TYPE_CHECKING:
    from jinja2 import Environment

SUFFIXES = (".html", ".htm")
DEFAULT_TITLE = "Image quality"
_BOKEH = ("bokeh.min.js", "bokeh-api.min.js")


def write_report(
    path: str | os.PathLike[str],
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    maps: Iterable[NDArray[Any] | None] | None = None,
    title: str = DEFAULT_TITLE,
) -> Path:
    """Write a report of rows of scores.

    The file takes the place of an earlier one once it is complete. Where the thumbnails of the pictures are more than
    16 MB, they go to a folder beside it: `report_files` for `report.html`.

    Args:
        path: ends in `.html`.
        rows: as `aigciqa.scoring.sinks.to_row` makes them; their pictures are looked for on disk.
        columns: of the rows.
        maps: the quality map (h, w) of each row, or None.
        title: of the page.

    Returns:
        The path.

    Raises:
        ImportError: jinja2 or bokeh is missing; it says how to install them.
        ValueError: the path is a folder or ends in something else.
        OSError: the file can't be written.
    """
    report = Report(path, columns, title=title)
    remaining = iter(maps) if maps is not None else None
    for row in rows:
        report.add(row, next(remaining) if remaining is not None else None)
    return report.write()


class Report:
    """A report in the making: rows are added as they are scored, and kept in memory.

    Args:
        path, columns, title: as `write_report` takes them.

    Raises:
        ImportError, ValueError: as `write_report`.
    """

    def __init__(self, path: str | os.PathLike[str], columns: Sequence[str], *, title: str = DEFAULT_TITLE) -> None:
        check_target(path)
        self.path = Path(path)
        self.title = title
        self.collection = Collection(columns)

    def add(self, row: Mapping[str, Any], quality_map: NDArray[Any] | None = None) -> None:
        """Take a row, and the map (h, w) of its score if there is one."""
        self.collection.add(row, quality_map)

    def write(self) -> Path:
        """Write the page; returns its path.

        Raises:
            OSError: it can't be written. An earlier report is as it was.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        thumbnails = Thumbnails(self.path)
        partial = self.path.with_name(f".{thumbnails.run}.html")
        try:
            page = _render(self.path, self.collection, thumbnails, self.title)
            # Lone surrogates are bytes of a file's name that are not UTF-8; in the script's data they are escapes.
            partial.write_bytes(page.encode("utf-8", "backslashreplace"))
            os.replace(partial, self.path)
        except BaseException:
            partial.unlink(missing_ok=True)
            thumbnails.discard()
            raise
        thumbnails.replace_earlier()
        return self.path


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise unless a report can be made and may be called so.

    Raises:
        ImportError, ValueError: as `write_report`.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{os.fspath(path)!r}: a report ends in .html")
    if Path(path).is_dir():
        raise ValueError(f"{os.fspath(path)!r} is a folder; name a file")
    _environment()
    _bokeh()


def _render(path: Path, collection: Collection, thumbnails: Thumbnails, title: str) -> str:
    columns = collection.columns()
    members = sections.members_of(collection)
    gallery = select_gallery(collection, columns)
    images = [collection.pictures[place].image for place in gallery.places]
    thumbnails.make([*images, *gallery.references])
    data = payload(collection, columns, members, gallery, path.parent) | {"inline": thumbnails.is_inline}
    environment = _environment()
    script = _in_script(_read("report.js"))
    bokeh = _in_script(_bokeh())
    return environment.get_template("report.html.j2").render(
        title=title,
        version=aigciqa.__version__,
        made=datetime.now().astimezone(),
        collection=collection,
        metrics=list(dict.fromkeys([*(column.metric for column in columns), *(key[0] for key in collection.failed)])),
        members=members,
        panels=sections.panels(collection, columns, members),
        gallery=gallery,
        shown={place: position for position, place in enumerate(gallery.places)},
        limits={
            "failures": FAILURE_LIMIT,
            "gallery": GALLERY_LIMIT,
            "groups": sections.GROUP_LIMIT,
            "paired": sections.PAIRED_LIMIT,
        },
        style=_read("report.css"),
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        thumbnails="\n".join(thumbnails.sources),
        script=script,
        bokeh=bokeh,
        script_hashes=" ".join(f"'{_hash(text)}'" for text in (script, bokeh)),
    )


def _environment() -> Environment:
    try:
        import jinja2
    except ImportError:
        raise _missing("jinja2") from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("aigciqa.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(number=_number, signed=_signed, p_value=_p_value)
    return environment


def _bokeh() -> str:
    """The script of Bokeh: it draws the charts in the browser."""
    try:
        from bokeh.util.paths import bokehjs_path
    except ImportError:
        raise _missing("bokeh") from None
    return "\n".join((Path(bokehjs_path()) / "js" / name).read_text(encoding="utf-8") for name in _BOKEH)


def _missing(package: str) -> ImportError:
    return ImportError(f"a report needs {package}: pip install 'aigciqa[report]'")


def _read(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _in_script(text: str) -> str:
    """A script's text such that HTML does not take part of it for the script's end."""
    return re.sub(r"<(?=!--|/?script)", r"\\x3C", text, flags=re.IGNORECASE)


def _hash(text: str) -> str:
    """What a content security policy calls a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}".replace("-", "−")


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def _p_value(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
