"""A folder of pictures that know what made them, with a table of their scores."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigciqa.errors import InputError, OutputExistsError
from aigciqa.scoring.sinks import FileSink, begun
from aigciqa.tables.columns import to_row
from aigciqa.tables.formats import read_rows
from aigciqa.utils.files import locked, write_file

if TYPE_CHECKING:
    from PIL.Image import Image

    from aigciqa.records import Record

TABLE = "scores.csv"


def picture_name(prompt: int, seed: int | str) -> str:
    """The name of a picture's file, by the number of its prompt and by its seed."""
    return f"{prompt:04d}-seed-{seed}.png"


def infotext(prompt: str, negative_prompt: Any, settings: Mapping[str, Any]) -> str:
    """What made a picture, as AUTOMATIC1111 writes it; settings that are None are left out."""
    lines = [prompt, *([f"Negative prompt: {negative_prompt}"] if negative_prompt else [])]
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in settings.items() if value is not None)])


@contextlib.contextmanager
def open_folder(
    folder: Path, overwrite: bool, columns: Sequence[str], made_by: Mapping[str, Any]
) -> Iterator[Callable[[Image, str, Record], None]]:
    """Give what writes a picture, with a text, and its record into a folder; an earlier run's go if `overwrite` is set.

    Raises:
        OutputExistsError: there is a table already, and `overwrite` is not set.
    """
    table = folder / TABLE
    if begun(table) and not overwrite:
        raise OutputExistsError(f"{str(table)!r} is there already: pass `overwrite=True`, or another folder as `to`")

    def write(picture: Image, text: str, record: Record) -> None:
        if record.error is None:
            write_file(folder / record.image, _png(picture, text))
        else:
            (folder / record.image).unlink(missing_ok=True)  # an earlier run's
        sink.write([to_row(record, columns)])

    with locked(table), contextlib.ExitStack() as last:
        earlier = list(_pictures_of(table))
        sink = FileSink(str(table), columns, made_by)
        last.callback(sink.abandon)
        sink.start()
        for name in earlier:
            (folder / name).unlink(missing_ok=True)
        yield write
        sink.close()


def _pictures_of(table: Path) -> Iterator[str]:
    """The pictures that an earlier run wrote, by its table, as far as it can be read: a killed run may have cut it."""
    with contextlib.suppress(InputError):
        for row in read_rows(table):
            if isinstance(row, dict):
                number, seed = str(row["image"]).partition("-")[0], str(row.get("seed"))
                is_ours = number.isdecimal() and seed.isdecimal()  # else it may lead out of the folder
                if is_ours and row["image"] == picture_name(int(number), seed):
                    yield row["image"]


def _png(picture: Image, text: str) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", text)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
