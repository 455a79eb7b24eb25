"""`score_files`: a stream of paths in, a stream of records out, in the same order."""

from __future__ import annotations

import hashlib
import math
import os
from collections import OrderedDict, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aigciqa.decode import load_image
from aigciqa.errors import ImageError
from aigciqa.metric import Metric, create_metric
from aigciqa.preprocess import present_image
from aigciqa.registry import Preprocess
from aigciqa.scoring.encoder import Encoder, encoders
from aigciqa.scoring.records import Item, Record

if TYPE_CHECKING:
    from typing import TypeAlias

    from aigciqa.scoring.records import Content

    PathLike: TypeAlias = "str | os.PathLike[str]"

DEFAULT_BATCH = {"cpu": 8, "cuda": 64}
#: Metrics that see whole pictures at their own size hold few of them in memory at once.
DEFAULT_BATCH_NATIVE = 4
MAX_WORKERS = 8
#: References kept decoded or encoded; an image prompt is usually shared by pictures that stand near each other.
MAX_REFERENCES = 1024


def score_files(
    images: Iterable[PathLike | Item],
    *,
    metric: str | Metric | Sequence[str | Metric],
    references: PathLike | Sequence[PathLike] | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    dtype: str = "float32",
    device: str | torch.device | None = None,
    strict: bool = False,
) -> Generator[Record, None, None]:
    """Score files, lazily.

    Files are decoded in threads; memory does not grow with their number. Scores do not depend on `batch_size` or
    `workers`. Each distinct reference is decoded and encoded once (the latest 1,024 are
    remembered).

    Args:
        images: any iterable of paths, or of `Item` objects, which carry reference and group of their own.
        metric: a name, a `Metric`, or several of them; several share the decoding.
        references: one path for all images, or as many paths as there are images. The own reference of an `Item` wins.
        batch_size: pictures per pass through the network; halved when a device runs out of memory.
        workers: decoding threads; 0 decodes in the caller's thread. One per core if absent, at most 8.
        dtype: what metrics given by name compute in, as `create_metric` takes it; a `Metric` keeps its own.
        device: where metrics given by name compute; a `Metric` stays where it is.
        strict: raise at the first picture that can't be scored.

    Yields:
        A `Record` per image and metric, in input order. A file that can't be scored is a record with `error` set.

    Raises:
        ValueError, TypeError: unusable arguments.
        ImageError: a picture can't be scored, and `strict` is set.
    """
    if isinstance(images, (str, os.PathLike)):
        raise TypeError(f"images is an iterable of paths; for one file pass [{os.fspath(images)!r}]")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is 1 or more; got {batch_size}")
    if workers is not None and workers < 0:
        raise ValueError(f"workers is 0 (decode in this thread) or more; got {workers}")
    metrics = [
        each if isinstance(each, Metric) else create_metric(each, device=device, dtype=dtype)
        for each in ([metric] if isinstance(metric, (str, Metric)) else metric)
    ]
    if not metrics:
        raise ValueError("no metric given")
    if references is not None and not any(each.requires_reference for each in metrics):
        names = ", ".join(each.name for each in metrics)
        raise ValueError(f"references were given, but {names} takes none; a metric that does: fr-lite")
    if references is None:
        needing = [each.name for each in metrics if each.requires_reference]
        items: Iterable[Item] = (_unpaired(image, needing) for image in images)
    elif isinstance(references, (str, os.PathLike)):
        shared = os.fspath(references)
        items = (_item(image, shared) for image in images)
    else:
        items = _paired(images, references)
    return _run_once(Engine(metrics, batch_size, workers, strict), items)


def _run_once(engine: Engine, items: Iterable[Item]) -> Generator[Record, None, None]:
    with closing(engine):
        yield from engine.run(items)


def _unpaired(image: PathLike | Item, full_reference: list[str]) -> Item:
    if full_reference and not isinstance(image, Item):
        raise ValueError(f"{full_reference[0]} compares with a reference (the image prompt): pass references=")
    return _item(image, None)


def _paired(images: Iterable[PathLike | Item], references: Sequence[PathLike]) -> Iterator[Item]:
    """Items of images and references; raises ValueError where their numbers differ."""
    if isinstance(images, Sequence) and len(images) != len(references):
        raise ValueError(f"{len(images)} images but {len(references)} references: pass one for each, or one for all")
    rest = iter(references)
    count = 0
    for count, image in enumerate(images, 1):
        try:
            yield _item(image, os.fspath(next(rest)))
        except StopIteration:
            raise ValueError(f"{len(references)} references for at least {count} images") from None
    if count < len(references):
        raise ValueError(f"{count} images but {len(references)} references: pass one for each, or one for all")


def _item(image: PathLike | Item, reference: str | None) -> Item:
    if not isinstance(image, Item):
        return Item(os.fspath(image), reference)
    has_own = image.reference is not None or image.reference_content is not None or image.reference_error is not None
    if not has_own and reference is not None:
        return replace(image, reference=reference)
    return image


@dataclass
class _Picture:
    """A file on its way: decoding, then presented once for each preprocessing, or an error."""

    decoding: Future[dict[Preprocess, Tensor] | str] | None
    features: dict[Encoder, Tensor] = field(default_factory=dict)  # of a reference

    def result(self) -> dict[Preprocess, Tensor] | str:
        return self.decoding.result() if self.decoding is not None else {}


@dataclass
class _Entry:
    item: Item
    image: _Picture | None
    reference: _Picture | None


class Engine:
    """Metrics made ready to score; it remembers references from one `run` to the next.

    Args:
        metrics, batch_size, workers, strict: as `score_files` takes them.
    """

    def __init__(
        self, metrics: Sequence[Metric], batch_size: int | None, workers: int | None, strict: bool = False
    ) -> None:
        if batch_size is None:
            native = any(each.config.preprocess.resize is None for each in metrics)
            batch_size = DEFAULT_BATCH_NATIVE if native else DEFAULT_BATCH.get(metrics[0].device.type, 16)
        if workers is None:
            workers = min(MAX_WORKERS, os.cpu_count() or 1)
        self.metrics = metrics
        self.encoders = encoders(metrics)
        self.batch_size = batch_size
        # Beside a network on the CPU, decoding would hold up one of its threads and so all of them: they take turns.
        self.ahead = 1 if all(each.device.type == "cpu" for each in metrics) else 2
        self.strict = strict
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="aigciqa-decode") if workers else None
        with_reference = [
            each for each, metric in zip(self.encoders, metrics, strict=True) if metric.requires_reference
        ]
        self.specs = tuple(dict.fromkeys(each.spec for each in self.encoders))
        self.reference_specs = tuple(dict.fromkeys(each.spec for each in with_reference))
        self.reference_encoders = frozenset(with_reference)
        self.references: OrderedDict[tuple[Any, ...], _Picture] = OrderedDict()

    def run(self, items: Iterable[Item]) -> Generator[Record, None, None]:
        """Score a stream of items, lazily; a record per item and metric, in order."""
        for entries in self._batches(items):
            for record in self._score(entries):
                if self.strict and record.error is not None:
                    raise ImageError(record.error)
                yield record

    def close(self) -> None:
        """End the decoding threads."""
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)

    def _batches(self, items: Iterable[Item]) -> Iterator[list[_Entry]]:
        """Batches in input order; on an accelerator, the next one decoding while one is being scored."""
        entries: deque[_Entry] = deque()
        for item in items:
            entries.append(self._start(item))
            while len(entries) >= self.ahead * self.batch_size:
                yield [entries.popleft() for _ in range(self.batch_size)]
        while entries:
            yield [entries.popleft() for _ in range(min(self.batch_size, len(entries)))]

    def _start(self, item: Item) -> _Entry:
        image = None if item.error is not None else self._decoding(item.image, item.content, self.specs)
        has_reference = item.reference is not None or item.reference_content is not None
        reference = self._reference(item) if image is not None and has_reference and self.reference_specs else None
        return _Entry(item, image, reference)

    def _reference(self, item: Item) -> _Picture:
        name, content = item.reference or "bytes", item.reference_content
        key = _version(name) if content is None else _digest(content)
        reference = self.references.pop(key, None) or self._decoding(name, content, self.reference_specs)
        self.references[key] = reference
        while len(self.references) > MAX_REFERENCES:
            self.references.popitem(last=False)
        return reference

    def _decoding(self, name: str, content: Content | None, specs: tuple[Preprocess, ...]) -> _Picture:
        if self.pool is not None:
            return _Picture(self.pool.submit(_decode, name, content, specs))
        done: Future[dict[Preprocess, Tensor] | str] = Future()
        done.set_result(_decode(name, content, specs))
        return _Picture(done)

    @torch.no_grad()  # a metric made as a loss would keep a graph
    def _score(self, entries: list[_Entry]) -> list[Record]:
        errors = [[_error(entry, metric) for entry in entries] for metric in self.metrics]
        features: dict[Encoder, dict[int, Tensor]] = {}
        for encoder in dict.fromkeys(self.encoders):
            users = [column for column, each in zip(errors, self.encoders, strict=True) if each is encoder]
            wanted = [index for index in range(len(entries)) if any(column[index] is None for column in users)]
            encoded = self._encode(encoder, [_presented(entries[index].image, encoder.spec) for index in wanted])
            features[encoder] = dict(zip(wanted, encoded, strict=True))
        columns = [
            self._records(metric, encoder, entries, features[encoder], column)
            for metric, encoder, column in zip(self.metrics, self.encoders, errors, strict=True)
        ]
        return [record for row in zip(*columns, strict=True) for record in row]

    def _records(
        self,
        metric: Metric,
        encoder: Encoder,
        entries: list[_Entry],
        features: dict[int, Tensor],
        errors: list[str | None],
    ) -> list[Record]:
        """Records of a batch by one metric, from the features of its pictures."""
        good = [index for index, error in enumerate(errors) if error is None]
        tables: dict[int, dict[str, float]] = {}
        if good:
            references = None
            if metric.requires_reference:
                references = self._encode_references(encoder, [entries[index].reference for index in good])
            scores = metric.regress(torch.stack([features[index] for index in good]), references).tolist()
            for index, row in zip(good, scores, strict=True):
                tables[index] = dict(zip(metric.dimensions, row, strict=True))
                if not all(map(math.isfinite, row)):
                    errors[index] = f"{entries[index].item.image}: the score is not a finite number"
        return [
            Record(
                image=entry.item.image,
                reference=entry.item.reference,
                group=entry.item.group,
                metric=metric.name,
                scores=tables[index] if errors[index] is None else {},
                error=errors[index],
            )
            for index, entry in enumerate(entries)
        ]

    def _encode_references(self, encoder: Encoder, pictures: Sequence[_Picture | None]) -> Tensor:
        """Features (B, D) of references, each distinct one encoded once."""
        wanted = [picture for picture in pictures if picture is not None]
        fresh = list({id(picture): picture for picture in wanted if encoder not in picture.features}.values())
        encoded = self._encode(encoder, [_presented(picture, encoder.spec) for picture in fresh])
        for picture, feature in zip(fresh, encoded, strict=True):
            picture.features[encoder] = feature
            if picture.features.keys() == self.reference_encoders:
                picture.decoding = None  # the pixels are not needed again
        return torch.stack([picture.features[encoder] for picture in wanted])

    def _encode(self, encoder: Encoder, pixels: list[Tensor]) -> list[Tensor]:
        """Features (D,) of presented pictures of any shapes, in batches of equal shape."""
        groups: dict[torch.Size, list[int]] = {}
        for index, picture in enumerate(pixels):
            groups.setdefault(picture.shape, []).append(index)
        features: dict[int, Tensor] = {}
        for indices in groups.values():
            rest = iter(indices)
            while part := list(islice(rest, self.batch_size)):
                try:
                    encoded = encoder.encode(_stacked([pixels[index] for index in part]))
                except torch.cuda.OutOfMemoryError:
                    if len(part) == 1:
                        raise
                    self.batch_size = len(part) // 2
                    torch.cuda.empty_cache()
                    rest = iter([*part, *rest])
                    continue
                features.update(zip(part, encoded, strict=True))
        return [features[index] for index in range(len(pixels))]


def _stacked(pictures: list[Tensor]) -> Tensor:
    """(B, 3, h, w) of pictures (3, h, w), channels last in memory as they are."""
    return torch.stack([picture.permute(1, 2, 0) for picture in pictures]).permute(0, 3, 1, 2)


def _version(path: str) -> tuple[Any, ...]:
    """What tells a file from what was there before under the same path."""
    try:
        facts = os.stat(path)
    except OSError:
        return (path,)
    return path, facts.st_size, facts.st_mtime_ns


def _digest(content: Content) -> tuple[Any, ...]:
    data = content if isinstance(content, bytes) else content.tobytes()
    return hashlib.sha256(data).digest(), getattr(content, "shape", None)


def _decode(name: str, content: Content | None, specs: tuple[Preprocess, ...]) -> dict[Preprocess, Tensor] | str:
    """A picture presented in each way, or why it can't be."""
    try:
        image = load_image(name) if content is None else load_image(content, name)
        return {spec: present_image(image, spec) for spec in specs}
    except ImageError as error:
        return str(error)
    except (TypeError, ValueError) as error:  # pixels of another type or shape
        return f"{name}: {error}"
    except MemoryError:
        return f"{name}: not enough memory to decode it"


def _error(entry: _Entry, metric: Metric) -> str | None:
    """Why a metric can't score an entry."""
    if entry.image is None:
        return entry.item.error
    image = entry.image.result()
    if isinstance(image, str):
        return image
    if not metric.requires_reference:
        return None
    if entry.reference is None:
        return entry.item.reference_error or f"{entry.item.image}: no reference given, and {metric.name} needs one"
    reference = entry.reference.result()
    return f"reference {reference}" if isinstance(reference, str) else None


def _presented(picture: _Picture | None, spec: Preprocess) -> Tensor:
    result = picture.result() if picture is not None else {}
    assert not isinstance(result, str)
    return result[spec]
