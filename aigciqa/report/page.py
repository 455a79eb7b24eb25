"""The page: a template filled with the figures, the images and the scripts, written in one piece."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
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
from aigciqa.errors import InputError
from aigciqa.report import sections
from aigciqa.report.collection import FAILURE_LIMIT, PEOPLE, Collection
from aigciqa.report.payload import payload, select_gallery
from aigciqa.report.prompts import matches_of, shared_prompts
from aigciqa.report.thumbnails import Thumbnails
from aigciqa.tables.columns import finite, human_columns
from aigciqa.tables.provenance import MetricFacts
from aigciqa.tables.text import percent, probability, rounded
from aigciqa.utils.extras import needs_extra
from aigciqa.utils.files import write_file
from aigciqa.utils.object_stores import check_is_path

if TYPE_CHECKING:
    from jinja2 import Environment

DEFAULT_TITLE = "Image quality"
_BOKEH = ("bokeh.min.js", "bokeh-api.min.js")


def write_report(
    path: str | os.PathLike[str],
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    maps: Iterable[NDArray[Any] | None] | None = None,
    matches: Iterable[str | None] | None = None,
    by_seed: bool = False,
    title: str = DEFAULT_TITLE,
    baseline: str | None = None,
    metrics: Mapping[str, MetricFacts] | None = None,
    findings: Sequence[str] = (),
) -> Path:
    """Write a report of rows of scores.

    The file takes the place of an earlier one once it is complete. Where the thumbnails of the images are more than
    16 MB, they go to a folder beside it: `report_files` for `report.html`.

    Args:
        path: ends in `.html`.
        rows: as `aigciqa.tables.columns.to_row` makes them; their images are looked for on disk. A score that is not
            finite counts as none.
        columns: of the rows.
        maps: the quality map (h, w) of each row, or None.
        matches: of each row what it has in common with rows of other groups; empty: nothing. None: as
            `aigciqa.compare` finds it.
        by_seed: compare only rows of the same match and the same cell `seed`, which all of them have.
        title: of the page.
        baseline: the group that others are compared with; None: the best groups, pair by pair.
        metrics: name -> what is known of it: `ScoreTable.metrics`, or `{metric.name: metric.config.facts}`. Of others
            the page says what `aigciqa.metric_info` does, without percentiles.
        findings: paragraphs that the page begins with.

    Returns:
        The path.

    Raises:
        MissingExtraError: jinja2 or bokeh is missing.
        InputError: the path is a folder or ends in something else.
        OSError: the file can't be written.

    Example:
        >>> import tempfile
        >>> from aigciqa.report import write_report
        >>> columns = ["image", "reference", "group", "metric", "quality", "error"]
        >>> rows = [dict(zip(columns, [f"{name}.png", None, name, "nr-lite", 3.0, None])) for name in ("old", "new")]
        >>> write_report(f"{tempfile.mkdtemp()}/report.html", rows, columns).name
        'report.html'
    """
    report = Report(path, columns, by_seed=by_seed, title=title, baseline=baseline, metrics=metrics, findings=findings)
    maps = iter(maps) if maps is not None else itertools.repeat(None)
    matches = iter(matches) if matches is not None else itertools.repeat(None)
    for row in rows:
        report.add(row, next(maps), next(matches))
    return report.write()


class Report:
    """A report in the making: rows are added as they are scored, and kept in memory.

    Arguments and errors are those of `write_report`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        columns: Sequence[str],
        *,
        by_seed: bool = False,
        title: str = DEFAULT_TITLE,
        baseline: str | None = None,
        metrics: Mapping[str, MetricFacts] | None = None,
        findings: Sequence[str] = (),
    ) -> None:
        check_target(path)
        self.path = Path(path)
        self.by_seed = by_seed
        self.title = title
        self.baseline = baseline
        self.findings = findings
        self.collection = Collection(columns, metrics or {})
        self.human = human_columns(columns)
        self.first_metric: str | None = None

    def add(self, row: Mapping[str, Any], quality_map: NDArray[Any] | None = None, match: str | None = None) -> None:
        """Take a row, and the map (h, w) of its score if there is one; `match` as `write_report` takes it.

        People's ratings in its cells `<dimension>_given` are shown as the scores of a metric of their own.
        """
        self.collection.add(row, quality_map, match)
        self.first_metric = self.first_metric or row["metric"]
        if row["metric"] != self.first_metric:
            return
        ratings = {name: finite(row.get(column)) for name, column in self.human.items()}
        if not all(map(math.isnan, ratings.values())):
            unscored = dict.fromkeys([*self.collection.dimensions, *self.collection.uncertainty.values()])
            self.collection.add({**row, **unscored, **ratings, "metric": PEOPLE, "error": None}, None, match)

    def write(self) -> Path:
        """Write the page; returns its path. If it can't be written, an earlier report is as it was."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        thumbnails = Thumbnails(self.path)
        try:
            page = _render(self, thumbnails)
            # Lone surrogates are bytes of a file's name that are not UTF-8; in the script's data they are escapes.
            write_file(self.path, page.encode("utf-8", "backslashreplace"))
        except BaseException:
            thumbnails.discard()
            raise
        thumbnails.replace_earlier()
        return self.path


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise as `write_report` unless a report can be made and may be called so."""
    check_is_path(path)
    if Path(path).suffix.lower() != ".html":
        raise InputError(f"{os.fspath(path)!r}: a report ends in .html")
    if Path(path).is_dir():
        raise InputError(f"{os.fspath(path)!r} is a folder; name a file")
    _environment()
    _bokeh()


def _render(report: Report, thumbnails: Thumbnails) -> str:
    collection = report.collection
    columns = collection.columns()
    members = sections.members_of(collection)
    matches = matches_of(collection, members, report.by_seed)
    gallery = select_gallery(collection, columns, matches.keys)
    grid = shared_prompts(collection, gallery, matches.keys)
    images = [collection.images[index].path for index in gallery.indices]
    thumbnails.make([*images, *gallery.references])
    data = payload(collection, columns, members, gallery, report.path.parent)
    data |= {"grid": grid, "inline": thumbnails.is_inline}
    panels = sections.panels(collection, columns, members, matches, report.baseline)
    script = _in_script(_read("report.js") + _read("grid.js"))
    bokeh = _in_script(_bokeh()) if len(panels) > 1 else ""  # for the scatter plot
    metrics = list(dict.fromkeys([*(column.metric for column in columns), *(key[0] for key in collection.failed)]))
    template = _environment().get_template("report.html.j2")
    return template.render(
        title=report.title,
        version=aigciqa.__version__,
        made=datetime.now().astimezone(),
        collection=collection,
        metrics=metrics,
        seen={metric: collection.facts_of(metric).seen for metric in metrics},
        members=members,
        group_count=len(collection.sizes()),
        baseline=report.baseline,
        findings=report.findings,
        panels=panels,
        agreements=sections.agreements(collection, columns),
        min_rated=sections.MIN_RATED,
        gallery=gallery,
        grid=grid,
        groups={group: index for index, group in enumerate(data["groups"])},
        shown={index: position for position, index in enumerate(gallery.indices)},
        failure_limit=FAILURE_LIMIT,
        style=_read("report.css") + _read("grid.css"),
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        thumbnails="\n".join(thumbnails.sources),
        script=script,
        bokeh=bokeh,
        script_hashes=" ".join(f"'{_hash(text)}'" for text in (script, bokeh)),
    )


def _environment() -> Environment:
    with needs_extra("report", "a report needs jinja2"):
        import jinja2
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("aigciqa.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    signed = functools.partial(rounded, signed=True)
    environment.filters.update(number=rounded, signed=signed, p_value=probability, percent=percent)
    return environment


def _bokeh() -> str:
    """The script of Bokeh: it draws the scatter plot in the browser."""
    with needs_extra("report", "a report needs bokeh"):
        from bokeh.util.paths import bokehjs_path
    return "\n".join((Path(bokehjs_path()) / "js" / name).read_text(encoding="utf-8") for name in _BOKEH)


def _read(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _in_script(text: str) -> str:
    """A script's text such that HTML does not take part of it for the script's end."""
    return re.sub(r"<(?=!--|/?script)", r"\\x3C", text, flags=re.IGNORECASE)


def _hash(text: str) -> str:
    """What a content security policy calls a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
