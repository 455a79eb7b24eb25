"""`aigciqa rate`: people rate images in a browser; a SQLite file keeps every vote."""

from __future__ import annotations

import contextlib
import itertools
import os
import posixpath
import re
import signal
import socket
import sys
import threading
import webbrowser
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from aigciqa.cli.common import (
    EXIT_DONE,
    Terminated,
    check_name,
    check_not_read,
    check_table_output,
    command,
    complain,
    overwrite_option,
    put,
    reference_option,
    say,
    terminate,
    writing,
)
from aigciqa.errors import InputError
from aigciqa.utils.paths import counted

if TYPE_CHECKING:
    from aigciqa.evaluation.study import Entry, Question, Study, StudySettings

LOOPBACK = "127.0.0.1"
PORT = 8570
#: The note on the rater who runs the study.
_OWN = "you"
#: Of images that are left out, these first ones are named.
_SHOWN = 5
#: Options that a study keeps from its making.
_FIXED = (
    "reference", "method", "questions", "prompt_for", "labels", "instructions", "training", "gold", "repeats",
    "votes_per_image", "images_per_rater", "break_every", "size",
)  # fmt: skip


@command("rate")
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@reference_option
@click.option(
    "--study", "path", required=True, metavar="FILE", help="SQLite file of the study; made if it is not there."
)
@click.option(
    "--method", type=click.Choice(["grades", "slider", "pairs"]), default="grades",
    help="Five labelled grades; a slider from 0 to 100; or two images of one prompt: left, right, the same.",
)  # fmt: skip
@click.option(
    "-q", "--question", "questions", multiple=True, metavar='NAME[="TEXT"]',
    help="quality, authenticity or correspondence, or one of your own; may be given more than once. [default: quality]",
)  # fmt: skip
@click.option(
    "--prompt-for", multiple=True, metavar="NAME", help="Show the prompt with this question of your own, too."
)
@click.option("--labels", metavar="A,B,C,D,E", help="Labels of the five grades, from the worst to the best.")
@click.option("--instructions", default="", metavar="TEXT|FILE.txt", help="What raters read before they begin.")
@click.option("--training", multiple=True, metavar="PATH", help="Images to begin with, whose votes don't count.")
@click.option("--gold", metavar="TABLE", help="Images whose scores are known: a table with a column for each question.")
@click.option(
    "--repeats", type=click.IntRange(min=0), default=0, metavar="N", help="Images that each rater sees twice."
)
@click.option(
    "--votes-per-image", type=click.IntRange(min=1), metavar="N",
    help="Show the least-voted images first, and none that has so many votes. [default: all images to all raters]",
)  # fmt: skip
@click.option(
    "--images-per-rater", type=click.IntRange(min=1), metavar="N", help="Images that one rater is shown, at most."
)
@click.option(
    "--break-every",
    type=click.IntRange(min=0),
    default=50,
    metavar="N",
    help="Images between two breaks; 0: no breaks.",
)
@click.option(
    "--size", default="native", metavar="native|PIXELS",
    help="Size on the screen: each image pixel one screen pixel, or so many CSS pixels on the longest side.",
)  # fmt: skip
@click.option("--invite", type=click.IntRange(min=1), metavar="N", help="Make so many links, one for each rater.")
@click.option("--anonymous", is_flag=True, help="Make one link by which anybody can rate.")
@click.option("--host", default=LOOPBACK, metavar="HOST", help="Address to listen on; 0.0.0.0: reachable by others.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, help="Port to listen on; 0: any that is free.")
@click.option("--url", metavar="URL", help="Where raters reach the server, if it is behind another.")
@click.option("--no-browser", is_flag=True, help="Don't open a page in the browser.")
@click.option("--export", metavar="FILE.csv", help="Write the votes that there are, and start no server.")
@overwrite_option
@click.option("--delete-rater", metavar="RATER", help="Delete a rater with all votes, such as r3, and start no server.")
def main(
    images: tuple[str, ...],
    reference: str | None,
    path: str,
    invite: int | None,
    anonymous: bool,
    host: str,
    port: int,
    url: str | None,
    no_browser: bool,
    export: str | None,
    overwrite: bool,
    delete_rater: str | None,
    **asked: Any,
) -> None:
    """Collect people's ratings of images in a browser.

    IMAGE and -r are those of `aigciqa score`. The study's file keeps the images' paths, the settings, the raters and
    every vote; without IMAGE, or with the same command again, the study goes on. `aigciqa mos` makes scores of it.
    Stop the server with Ctrl-C.
    """
    from aigciqa.evaluation.study import is_study, open_study
    from aigciqa.evaluation.study.schema import check
    from aigciqa.utils.files import locked

    context = click.get_current_context()
    if export is not None and delete_rater is not None:
        raise click.UsageError("--export and --delete-rater: give one of them, then the other")
    check_name("--study", path, behind="-wal")  # of SQLite
    check_not_read("--study", None if is_study(path) else path, images)
    check_table_output("--export", export, [*images, reference, path])
    if export is not None:
        _export(path, export)
        context.exit(EXIT_DONE)
    if not images:
        check(path)  # before a folder is made for the lock
    with contextlib.ExitStack() as held:
        with writing():
            held.enter_context(locked(path))
        if delete_rater is not None:
            with open_study(path) as study:
                study.delete_rater(_number_of(delete_rater))
            say(f"{delete_rater} and all votes of {delete_rater} are deleted from {path}")
            context.exit(EXIT_DONE)
        from aigciqa.evaluation.study.server import make_app
        from aigciqa.evaluation.study.web import check_url, listen, serve

        check_url(url)
        given = _given(context)
        with writing():
            study = _made(path, images, reference, asked) if images else _going_on(path, given)
        signal.signal(signal.SIGTERM, terminate)
        with study, listen(host, port) as listening:
            with contextlib.suppress(KeyboardInterrupt, Terminated):  # how the server is stopped
                app = make_app(study, url)
                if anonymous:
                    study.set_anonymous(True)
                base = (url or _base(host, listening)).rstrip("/")
                for_others = host != LOOPBACK or url is not None or invite is not None or anonymous
                page = _announce(study, base, invite or 0, for_others)
                if not no_browser:
                    threading.Thread(target=webbrowser.open, args=[page], daemon=True).start()
                serve(app, listening)
            say(
                f"stopped; every vote is in {path}: aigciqa rate --study {path} goes on,"
                f" aigciqa mos {path} -o ratings.csv makes scores of them"
            )


def _announce(study: Study, base: str, invite: int, for_others: bool) -> str:
    """Print the links; returns the one to open."""
    links = {rater.name: f"{base}/r/{rater.secret}" for rater in [study.invite() for _ in range(invite)]}
    if study.anonymous_secret is not None:
        links["for all"] = f"{base}/join/{study.anonymous_secret}"
    opened = page = f"{base}/admin/{study.admin_secret}"
    raters = study.raters()
    own = next((each for each in raters if each.label == _OWN), None)  # the others' links are theirs
    if not for_others and (own or not raters):
        opened = links["rate here"] = f"{base}/r/{(own or study.invite(_OWN)).secret}"
    links["the study's page, for you alone"] = page
    put("\n".join(f"{who}: {link}" for who, link in links.items()))
    sys.stdout.flush()
    return opened


def _given(context: click.Context) -> list[str]:
    """The options on the command line that say what a study is, which is fixed when it is made."""
    from click.core import ParameterSource

    given = [each for each in context.command.params if each.name in _FIXED]
    given = [each for each in given if context.get_parameter_source(str(each.name)) == ParameterSource.COMMANDLINE]
    return [each.opts[-1] for each in given]


def _export(path: str, export: str) -> None:
    from aigciqa.evaluation.study.votes import votes_csv
    from aigciqa.tables import provenance
    from aigciqa.utils.files import write_file

    lines = list(votes_csv(path))
    with writing():
        write_file(export, b"".join(lines))
        provenance.forget(export)
    say(f"{counted(len(lines) - 1, 'vote')} in {export}")


def _number_of(rater: str) -> int:
    if not re.fullmatch(r"r?\d{1,18}", rater, re.ASCII):
        raise InputError(f"--delete-rater takes a rater as tables call it, such as r3; got {rater!r}")
    return int(rater.removeprefix("r"))


def _base(host: str, listening: socket.socket) -> str:
    """Where the server is reached."""
    port = listening.getsockname()[1]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _going_on(path: str, given: Sequence[str]) -> Study:
    from aigciqa.evaluation.study import open_study

    study = open_study(path)
    if given:
        study.close()
        raise InputError(
            f"{path} keeps the settings that it was made with: leave {given[0]} out, or name another --study"
        )
    return study


def _made(path: str, images: Sequence[str], reference: str | None, asked: Mapping[str, Any]) -> Study:
    """The study of these images and settings: made, or if it is there, opened."""
    from aigciqa.evaluation.study import create_study, open_study
    from aigciqa.evaluation.study.creation import digest_of

    settings = _settings(asked)
    rated = _entries(images, reference, settings)
    others = [
        replace(entry, kind="training") for each in asked["training"] for entry in _entries([each], reference, settings)
    ]
    if asked["gold"] is not None:
        others += _gold(asked["gold"], reference, settings)
    apart = {(entry.image, entry.other) for entry in others}
    entries = [*others, *(entry for entry in rated if (entry.image, entry.other) not in apart)]
    _check_prompts(entries, settings)
    if not os.path.lexists(path):
        return create_study(path, entries, settings)
    study = open_study(path)
    if study.digest != digest_of(entries, settings):
        study.close()
        raise InputError(
            f"{path} is a study of other images or settings: leave the images out to go on with it as it was made, or "
            "name another --study"
        )
    return study


def _settings(asked: Mapping[str, Any]) -> StudySettings:
    from aigciqa.evaluation.study import StudySettings

    size = asked["size"]
    if size != "native" and not re.fullmatch(r"\d{1,9}", size, re.ASCII):
        raise InputError(f"--size is native or a number of pixels; got {size!r}")
    questions = [_question(each, asked["method"]) for each in asked["questions"] or ("quality",)]
    names = [each.name for each in questions]
    for name in asked["prompt_for"]:
        if name not in names:
            raise InputError(f"--prompt-for {name}: there is no such question; there are {', '.join(names)}")
    values = {name: asked[name] for name in ("method", "votes_per_image", "images_per_rater", "repeats", "break_every")}
    if asked["labels"] is not None:
        values["labels"] = tuple(label.strip() for label in asked["labels"].split(","))
    return StudySettings(
        questions=tuple(
            replace(each, with_prompt=each.with_prompt or each.name in asked["prompt_for"]) for each in questions
        ),
        instructions=_instructions(asked["instructions"]),
        size=None if size == "native" else int(size),
        **values,
    )


def _question(text: str, method: Any) -> Question:
    from aigciqa.evaluation.study import Question
    from aigciqa.evaluation.study.settings import paper_question

    name, given, own = text.partition("=")
    of_paper = paper_question(name, method)
    if not given:
        if of_paper is None:
            raise InputError(
                f"--question {name}: only quality, authenticity and correspondence have a text already; write yours "
                f'as in --question {name}="How ... is this picture?"'
            )
        return of_paper
    return Question(name, own, with_prompt=of_paper is not None and of_paper.with_prompt)


def _instructions(given: str) -> str:
    if os.path.splitext(given)[1].lower() not in (".txt", ".md"):
        return given
    try:
        with open(given, encoding="utf-8-sig") as stream:
            return stream.read().strip()
    except (OSError, UnicodeError) as error:
        raise InputError(f"--instructions {given}: {getattr(error, 'strerror', None) or error}") from None


def _entries(images: Sequence[str], reference: str | None, settings: StudySettings) -> list[Entry]:
    """The images that arguments name, as `aigciqa score` takes them; in pairs, where pairs are to be rated."""
    from aigciqa.cli.inputs import Inputs
    from aigciqa.evaluation.study import Entry
    from aigciqa.images.reading import may_be_image
    from aigciqa.scoring.sources import describe_skipped, opened

    inputs = Inputs(images, reference, None, lambda _: False)
    entries: dict[str, Entry] = {}
    of_prompt: defaultdict[str, list[Entry]] = defaultdict(list)
    failed = []
    for found in inputs.found:
        for each in opened(found):
            item = inputs.to_item(each)
            if item.error is None and item.content is not None and not may_be_image(item.image):
                raise InputError(
                    f"{item.image} is inside an archive: unpack it, so that the server can read it any time"
                )
            if item.error is not None or not may_be_image(item.image):
                failed.append(item.error or f"{item.image}: no such file")
                continue
            if item.image in entries:
                continue
            prompt, generator = item.extra.get("prompt") or None, item.extra.get("generator") or None
            entry = Entry(item.image, reference=item.reference, prompt=prompt, group=item.group, generator=generator)
            entries[item.image] = entry
            stem = posixpath.splitext(each.relative.replace(os.sep, "/"))[0]
            of_prompt[item.reference or prompt or stem].append(entry)
    for line in [*failed[:_SHOWN], *describe_skipped(inputs.skipped)]:
        complain(line)
    if len(failed) > _SHOWN:
        complain(f"{counted(failed, 'image')} left out")
    if not entries:
        raise InputError(f"no images in {', '.join(images)}")
    if settings.method != "pairs":
        return list(entries.values())
    couples = (couple for same in of_prompt.values() for couple in itertools.combinations(same, 2))
    pairs = [replace(one, other=other.image, group=None, generator=None) for one, other in couples]
    if not pairs:
        raise InputError(
            "no two images of one prompt: name folders whose files have the same names, as in gen-a/ gen-b/, or image "
            "prompts with -r, or a manifest with a column prompt (aigciqa score --columns prompt writes one)"
        )
    return pairs


def _gold(table: str, reference: str | None, settings: StudySettings) -> list[Entry]:
    """Images of a table with the scores that are right."""
    from aigciqa.scoring.manifests import carried_columns, rows
    from aigciqa.scoring.sources import MANIFEST_SUFFIXES
    from aigciqa.tables.columns import to_score

    if settings.method == "pairs":
        raise InputError("--gold goes with the methods grades and slider")
    if os.path.splitext(table)[1].lower() not in MANIFEST_SUFFIXES:
        raise InputError(f"--gold {table}: expected a table that ends in one of {', '.join(sorted(MANIFEST_SUFFIXES))}")
    known = {entry.image: entry for entry in _entries([table], reference, settings)}
    golden: dict[str, Entry] = {}
    for found in rows(table, carried_columns(table)):
        image, cells = found.item.image, {name: found.item.extra.get(name) for name in settings.by_name}
        try:
            expected = {name: score for name, cell in cells.items() if (score := to_score(cell)) is not None}
        except InputError as error:
            raise InputError(f"--gold {table}: {image}: {error}") from None
        if not expected:
            names = ", ".join(cells)
            raise InputError(
                f"--gold {table}: {image} has no score; a column is expected for one question at least: {names}"
            )
        if image in golden:
            raise InputError(f"--gold {table}: two rows of {image}")
        if image in known:
            golden[image] = replace(known[image], kind="gold", expected=expected)
    return list(golden.values())


def _check_prompts(entries: Sequence[Entry], settings: StudySettings) -> None:
    """Refuse a question on the prompt of images that have none."""
    asking = [each.name for each in settings.questions if each.with_prompt]
    without = [entry.image for entry in entries if entry.reference is None and not entry.prompt]
    if asking and without:
        raise InputError(
            f"{asking[0]} asks about the prompt, and {len(without)} of {len(entries)} images have none, such as "
            f"{without[0]}: name image prompts with -r, or a manifest with a column prompt"
        )
