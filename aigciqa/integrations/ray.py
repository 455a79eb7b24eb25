"""Scoring on Ray Data: the engine of `score_files` in a pool of actors, on one machine or on a cluster.

    dataset = read_images("s3://bucket/shards/", kind="webdataset")
    score_dataset(dataset, "nr-resnet50", num_gpus=1, concurrency=8).write_parquet("s3://bucket/scores")

Ray's workers need this library, too: `pip install 'aigciqa[ray]'` on every node, or in the runtime environment.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aigciqa.errors import InputError
from aigciqa.images.names import IMAGE_SUFFIXES, is_image_name
from aigciqa.records import Item
from aigciqa.scoring import archives
from aigciqa.scoring.generation import Wanted
from aigciqa.scoring.manifests import beside
from aigciqa.tables.columns import MANIFEST_COLUMNS, columns_of, dimensions_of, to_row
from aigciqa.tables.csv_text import SWALLOWED, plain, swallows
from aigciqa.tables.parquet import arrow_table
from aigciqa.utils import object_stores
from aigciqa.utils.extras import needs_extra

with needs_extra("ray", "scoring on Ray needs Ray Data"):
    import pyarrow.csv
    import ray.data

if TYPE_CHECKING:
    import pandas

    from aigciqa.metric import Metric
    from aigciqa.records import Content
    from aigciqa.scoring.engine import Engine

Kind = Literal["images", "webdataset", "csv", "jsonl", "parquet"]
_KINDS: dict[str, Kind] = {".tar": "webdataset", ".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}


def read_images(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, kind: Kind | None = None, **options: Any
) -> ray.data.Dataset:
    """Read images, or a table that names them, with the reader of Ray Data that fits.

    Args:
        source: path or URL of a file or folder, or several of one kind.
        kind: `"images"` (files of images), `"webdataset"` (tar archives), `"csv"`, `"jsonl"` or `"parquet"` (tables
            with a column `image`: paths, URLs or the bytes of files; and optionally `reference` and `group`). By the
            suffix if absent; a folder without one holds images.
        options: for Ray's reader, such as `override_num_blocks` or `filesystem`.

    Returns:
        A dataset for `score_dataset`. Images that Ray has read are in the column `image`, their names in `path`;
        those of tables are read by the actors that score them. Relative paths in a table are relative to it, or, where
        there is no such file, to the current folder.

    Raises:
        InputError: no source, or a kind that is none.
    """
    given = os.fspath(source) if isinstance(source, (str, os.PathLike)) else [os.fspath(each) for each in source]
    if not given:
        raise InputError("`source` is empty: name a file or folder")
    first = given if isinstance(given, str) else given[0]
    kind = kind or _KINDS.get(os.path.splitext(first)[1].lower(), "images")
    if kind not in ("images", *_KINDS.values()):
        raise InputError(f"`kind` is one of images, {', '.join(_KINDS.values())}; got {kind!r}")
    scheme = object_stores.scheme_of(first)  # which Ray's paths lack
    if kind == "webdataset":
        samples = ray.data.read_webdataset(given, decoder=None, **options)
        return samples.map_batches(_from_samples, fn_args=(scheme,), batch_format="pandas", batch_size=None)
    if kind == "images":
        suffixes = [suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES]
        files = ray.data.read_binary_files(given, include_paths=True, file_extensions=suffixes, **options)
        return files.map_batches(_from_files, fn_args=(scheme,), batch_format="pyarrow", batch_size=None)
    if kind == "csv":  # a group called 007 stays so
        as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(MANIFEST_COLUMNS, pyarrow.string()))
        options = {"convert_options": as_text} | options
    reader = {"csv": ray.data.read_csv, "jsonl": ray.data.read_json, "parquet": ray.data.read_parquet}[kind]
    table = reader(given, include_paths=True, **options)
    return table.map_batches(_from_table, fn_args=(scheme, kind == "csv"), batch_format="pyarrow", batch_size=None)


def score_dataset(
    dataset: ray.data.Dataset,
    metric: str | Metric | Sequence[str | Metric],
    *,
    weights: str | None = "default",
    dimension: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    rows: int = 256,
    concurrency: int | tuple[int, int] = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> ray.data.Dataset:
    """Score a dataset, lazily, in a pool of actors that hold the metrics.

    The metrics are made here and sent to the actors, so checkpoints are read or downloaded once. Each actor decodes and
    encodes a reference once (it remembers the latest 1,024). An actor that dies is replaced, and what it was scoring
    scored again.

    Args:
        dataset: with a column `image`: a path or URL, the bytes of a file, or pixels, uint8 (H, W, 3), as
            `ray.data.read_images` gives them; optionally `reference`, the same; `group`; and `path`, the name of an
            image that is in memory.
        metric, batch_size: as `score_files` takes them.
        weights: of a metric given by name, as `create_metric` takes them.
        dimension: the one to score; all of the metrics' if absent.
        dtype: what metrics given by name compute in, as `create_metric` takes it; `"auto"` is up to the actors' device
            and goes for every metric.
        device: where actors compute; `"cuda"` if they have a GPU, else the CPU.
        workers: decoding threads of an actor; as many as CPUs if absent.
        rows: images per call of an actor; some batches, so that their decoding overlaps with the network.
        concurrency: how many actors; (lowest, highest) lets Ray decide.
        num_cpus, num_gpus: of an actor. Its network has as many threads as CPUs; Ray's readers need some CPUs, too.

    Returns:
        A dataset with the columns of the tables that `aigciqa score` writes: `image`, `reference`, `group`, `metric`,
        the dimensions, `error`; a row per image and metric. An image that can't be scored has an `error`.

    Raises:
        ValueError, TypeError, WeightsError: as `create_metric`; a metric without the dimension; `weights`, or a `dtype`
            other than `"auto"`, together with a `Metric`, which has its own.
    """
    from aigciqa.create import as_metrics

    metrics = as_metrics(metric, weights=weights, dtype=None if dtype == "auto" else dtype)
    dimensions = dimensions_of(metrics, dimension)
    low, high = (concurrency, concurrency) if isinstance(concurrency, int) else concurrency
    setup = Setup(metrics, dtype == "auto", device or ("cuda" if num_gpus else None), batch_size, workers, num_cpus)
    return dataset.map_batches(
        _BatchScorer,
        fn_constructor_args=(setup, columns_of(dimensions)),
        batch_size=rows,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(min_size=low, max_size=high),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )


@dataclass(frozen=True)
class Setup:
    """What an actor needs to score."""

    metrics: Sequence[Metric]  # on the CPU
    fast: bool  # compute in what the device is fastest in; else as the metrics were made
    device: str | None  # None: where the metrics are
    batch_size: int | None = None
    workers: int | None = None  # None: as many as CPUs
    cpus: float = 1
    strict: bool = False
    generation: Wanted | None = None
    folder: str = field(default_factory=os.getcwd)  # relative paths begin there, if the actor has such a folder

    def engine(self) -> Engine:
        """The engine, in the process that is to score."""
        import torch

        from aigciqa.scoring.engine import Engine
        from aigciqa.utils.hardware import fast_dtype

        if os.path.isdir(self.folder):
            os.chdir(self.folder)
        threads = max(1, int(self.cpus))
        torch.set_num_threads(threads)
        metrics = [metric.to(self.device) if self.device else metric for metric in self.metrics]
        for metric in metrics if self.fast else ():
            dtype = fast_dtype(metric.device)
            metric.autocast_dtype = None if dtype is torch.float32 else dtype
        workers = self.workers if self.workers is not None else threads
        read = self.generation or Wanted()
        columns = read.columns if self.generation is not None else None
        return Engine(metrics, self.batch_size, workers, self.strict, generation=columns, group_by=read.group_by)


class _BatchScorer:
    """An actor that scores batches of a dataset."""

    def __init__(self, setup: Setup, columns: Sequence[str]) -> None:
        self.engine = setup.engine()
        self.columns = columns

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pyarrow.Table:
        return arrow_table((to_row(record, self.columns) for record in self.engine.run(_items(batch))), self.columns)


def _items(batch: Mapping[str, np.ndarray]) -> Iterator[Item]:
    if "image" not in batch:
        raise InputError(f"the dataset has no column 'image'; it has: {', '.join(batch)}")
    nothing = itertools.repeat(None)
    columns = (batch.get(name, nothing) for name in ("image", "path", "reference", "group"))
    for image, path, reference, group in zip(*columns, strict=False):
        name, content = _image(image)
        prompt, prompt_content = _image(reference)
        name = name or _text(path) or ""
        missing = None if name or content is not None else "the column 'image' is empty"
        opened = (each for each, held in ((name, content), (prompt or "", prompt_content)) if held is None)
        missing = missing or next(filter(None, map(object_stores.refusal, opened)), None)
        yield Item(name, prompt, _text(group), missing, None, content, prompt_content)


def _image(cell: Any) -> tuple[str | None, Content | None]:
    """The name and the content of an image, as far as a cell has them."""
    if isinstance(cell, Mapping):  # as Hugging Face's data sets keep images in Parquet
        return _text(cell.get("path")), cell.get("bytes")
    if isinstance(cell, (bytes, np.ndarray)):
        return None, cell
    return _text(cell), None


def _text(cell: Any) -> str | None:
    """A cell as text; None if it is empty, which pandas shows as NaN."""
    return None if cell is None or cell != cell or cell == "" else str(cell)


def _from_files(files: pyarrow.Table, scheme: str) -> pyarrow.Table:
    """Files that Ray has read, with their names."""
    paths = [scheme + path for path in files["path"].to_pylist()]
    return pyarrow.table({"image": files["bytes"], "path": pyarrow.array(paths, pyarrow.string())})


def _from_samples(samples: pandas.DataFrame, scheme: str) -> pyarrow.Table:
    """Images of WebDataset samples, as the command finds them in the archive."""
    rows = []
    for row in samples.to_dict("records"):
        named = {f"{row['__key__']}.{suffix}": content for suffix, content in row.items() if isinstance(content, bytes)}
        members = sorted(each for each in named.items() if archives.is_image(each[0]))
        for image in archives.images_of(members, bytes):
            path = f"{scheme}{row['__url__']}/{image.name}"
            rows.append({"image": image.content, "path": path, "reference": image.reference_content})
    types = {"image": pyarrow.binary(), "path": pyarrow.string(), "reference": pyarrow.binary()}
    return pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(types))


def _from_table(batch: pyarrow.Table, scheme: str, is_csv: bool) -> dict[str, list[Any]]:
    """The columns that count of a table, which `path` names."""
    paths, names = batch["path"].to_pylist(), [name for name in batch.column_names if name != "path"]
    if "image" not in names:
        raise InputError(f"{paths[0] if paths else 'a table'} has no column 'image'; it has: {', '.join(names)}")
    if is_csv:
        column = names.index("image")
        for path, *row in zip(paths, *(batch[name].to_pylist() for name in names), strict=True):
            cells = [cell if isinstance(cell, str) else "" for cell in row]
            if swallows(cells, len(names), column, ",", is_image_name):
                raise InputError(f"{path}: {SWALLOWED}")
    folders = [scheme + os.path.dirname(path) for path in paths]
    table: dict[str, list[Any]] = {}
    for name in (each for each in MANIFEST_COLUMNS if each in names):
        cells = [plain(cell) if is_csv and cell else cell for cell in batch[name].to_pylist()]
        if name == "group":
            table[name] = list(map(_text, cells))
        else:
            table[name] = [
                beside(folder, cell) if cell and isinstance(cell, str) else cell
                for folder, cell in zip(folders, cells, strict=True)
            ]
    return table
