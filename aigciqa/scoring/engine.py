"""`score_files`: a stream of paths in, a stream of records out, in the same order."""

from __future__ import annotations

import hashlib
import math
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aigciqa.create import as_metrics
from aigciqa.errors import ImageError, InputError
from aigciqa.metric import Metric
from aigciqa.records import Item, Record
from aigciqa.scoring.decoding import DECODERS, Decoder, DecoderPool, Decoding, Preprocessed
from aigciqa.scoring.encoder import Encoder, Maps, encoders
from aigciqa.scoring.items import items_of
from aigciqa.utils.hardware import check_huge_pages, settle_threads

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy as np

    from aigciqa.records import Content
    from aigciqa.registry import Preprocess

    PathLike: TypeAlias = "str | os.PathLike[str]"

DEFAULT_BATCH = {"cpu": 8, "cuda": 64}
#: Metrics that see whole images at their own size hold few of them in memory at once.
DEFAULT_BATCH_NATIVE = 4
MAX_WORKERS = 8
#: What a network takes for each pixel that it sees, at most: the first feature maps of VGG in float32, several times.
BYTES_PER_PIXEL = 1024
#: How much of a GPU's free memory a batch may take by that measure.
MEMORY_SHARE = 0.25
#: Networks that run side by side on a CPU; more would take more memory for little gain.
MAX_LANES = 8
#: References kept decoded or encoded; an image prompt is usually shared by images that stand near each other.
MAX_REFERENCES = 1024


def score_files(
    images: Iterable[PathLike | Item],
    *,
    metric: str | Metric | Sequence[str | Metric],
    references: PathLike | Sequence[PathLike] | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    strict: bool = False,
    maps: Maps | None = None,
    decoder: Decoder = "pillow",
) -> Generator[Record, None, None]:
    """Score files, lazily.

    Files are decoded in threads; memory does not grow with their number, and at most
    `aigciqa.scoring.budget.CONTENT_BYTES` of encoded images are held at a time. Scores do not depend on `batch_size` or
    `workers`. Each distinct reference is decoded and encoded once (the latest 1,024 are remembered). A file whose
    reading or decoding hangs in one of the threads is given up after two minutes; what hangs in the caller's is not:
    with `workers=0`, or where the system does not say when a reference was changed.

    Args:
        images: any iterable of paths, or of `Item` objects, which carry reference and group of their own.
        metric: a name, a `Metric`, or several of them; several share the decoding.
        references: one path for all images, or as many paths as there are images. The own reference of an `Item` wins.
        batch_size: images per pass through the network. If absent, 8 on a CPU, and up to 64 on a GPU, as its free
            memory allows; 4 where images are seen at their own size. Halved for images that do not fit in memory.
        workers: decoding threads; 0 decodes in the caller's thread. One per core if absent, at most 8.
        dtype: what metrics given by name compute in, as `create_metric` takes it; float32 if absent.
        device: where metrics given by name compute; the CPU if absent.
        strict: raise at the first image that can't be scored.
        maps: give each record its `quality_map`. `"coarse"`: from the feature maps that the score is made of, which
            costs next to nothing; `"dense"`: what `Metric.quality_map` draws. The two differ for `lite` alone, whose
            dense maps take several times as long as the scores.
        decoder: what decodes JPEG files; other formats are always Pillow's. `"pillow"`: exactly; `"draft"`: Pillow at
            1/2, 1/4 or 1/8 of the size where the metrics see no more than that, faster for large images; `"nvjpeg"`:
            on the GPU, which then also resizes. The latter two move scores (docs: speed and memory).

    Yields:
        A `Record` per image and metric, in input order. A file that can't be scored is a record with `error` set.

    Raises:
        ValueError, TypeError: unusable arguments; `dtype` or `device` together with a `Metric`, which has its own.
        ImageError: an image can't be scored, and `strict` is set.
        Exception: whatever `images` raises, when all that came before is scored.
    """
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size is 1 or more; got {batch_size}")
    if workers is not None and workers < 0:
        raise InputError(f"workers is 0 (decode in this thread) or more; got {workers}")
    metrics = as_metrics(metric, device=device, dtype=dtype)
    if maps not in (None, "coarse", "dense"):
        raise InputError(f"maps is None, 'coarse' or 'dense'; got {maps!r}")
    if decoder not in DECODERS:
        raise InputError(f"decoder is one of {', '.join(DECODERS)}; got {decoder!r}")
    if decoder == "nvjpeg" and any(each.device.type != "cuda" for each in metrics):
        raise InputError(
            f"decoder 'nvjpeg' needs metrics on a CUDA device; {metrics[0].name} is on {metrics[0].device}"
        )
    items = items_of(images, references, metrics)
    return _run_once(partial(Engine, metrics, batch_size, workers, strict, maps=maps, decoder=decoder), items)


def _run_once(build: Callable[[], Engine], items: Iterable[Item]) -> Generator[Record, None, None]:
    with closing(build()) as engine:
        yield from engine.run(items)


@dataclass(eq=False)
class _Image:
    """A file on its way: decoding, then, if it is a reference, encoded."""

    name: str
    decoding: Decoding | None
    key: tuple[Any, ...] = ()
    lock: threading.Lock = field(default_factory=threading.Lock)
    features: dict[Encoder, Tensor | None] = field(default_factory=dict)  # None: it does not fit in memory


@dataclass
class _Entry:
    item: Item
    image: _Image | None
    reference: _Image | None


@dataclass(frozen=True)
class _Encoded:
    """What the network says of an image: features (D,), and feature maps (C, h, w) where they are wanted."""

    features: Tensor
    maps: Tensor | None


class Engine:
    """Metrics made ready to score; it remembers references from one `run` to the next.

    On an accelerator one batch is scored while the next is decoded. On a CPU, each batch is split among lanes: threads
    that each run the network on their part with their share of the cores. They need not wait for one another, and
    decoding fits in between, where the threads of one network would all wait for the one that a decoder holds up.

    Args:
        metrics, batch_size, workers, strict, maps, decoder: as `score_files` takes them.
    """

    def __init__(
        self,
        metrics: Sequence[Metric],
        batch_size: int | None,
        workers: int | None,
        strict: bool = False,
        *,
        maps: Maps | None = None,
        decoder: Decoder = "pillow",
    ) -> None:
        settle_threads()
        batch_size = batch_size or _default_batch(metrics)
        if workers is None:
            workers = min(MAX_WORKERS, os.cpu_count() or 1)
        self.metrics = metrics
        self.encoders = encoders(metrics)
        self.strict = strict
        self.maps = maps
        self.pool = DecoderPool(workers, decoder, metrics[0].device)
        is_on_cpu = all(each.device.type == "cpu" for each in metrics)
        self.threads = torch.get_num_threads()
        self.lane_count = min(self.threads, batch_size, MAX_LANES) if is_on_cpu and workers else 1
        self.lanes = self._start_lanes() if self.lane_count > 1 else None
        if is_on_cpu and any(each.network is not None for each in self.encoders):
            check_huge_pages()
        self.batch_size = math.ceil(batch_size / self.lane_count)
        self.fitting: dict[tuple[Encoder, torch.Size], int] = {}  # smaller batches, of images that need much memory
        with_reference = [
            each for each, metric in zip(self.encoders, metrics, strict=True) if metric.requires_reference
        ]
        self.specs = tuple(dict.fromkeys(each.spec for each in self.encoders))
        self.reference_specs = tuple(dict.fromkeys(each.spec for each in with_reference))
        self.reference_encoders = frozenset(with_reference)
        self.references: OrderedDict[tuple[Any, ...], _Image] = OrderedDict()

    def run(self, items: Iterable[Item]) -> Generator[Record, None, None]:
        """Score a stream of items, lazily; a record per item and metric, in order."""
        failures: list[Exception] = []
        for records in self._scored(_until_failure(items, failures)):
            for record in records:
                if self.strict and record.error is not None:
                    raise ImageError(record.error)
                yield record
        if failures:
            raise failures[0]

    def close(self) -> None:
        """End the threads."""
        self.pool.close()
        if self.lanes is not None:
            self.lanes.shutdown(cancel_futures=True)
            torch.set_num_threads(self.threads)  # lanes set it for threads that are started after them, too

    def _start_lanes(self) -> ThreadPoolExecutor:
        share, rest = divmod(self.threads, self.lane_count)
        shares = iter([share + 1] * rest + [share] * (self.lane_count - rest))

        def start() -> None:
            torch.get_num_threads()  # torch sets a thread's number when it is first asked, and would overwrite ours
            torch.set_num_threads(next(shares))

        return ThreadPoolExecutor(self.lane_count, "aigciqa-lane", start)

    def _scored(self, items: Iterable[Item]) -> Iterator[list[Record]]:
        if self.lanes is None:
            yield from map(self._score, self._batches(items))
            return
        running: deque[Future[list[Record]]] = deque()
        for entries in self._batches(items):
            running.append(self.lanes.submit(self._score, entries))
            if len(running) > self.lane_count:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

    def _batches(self, items: Iterable[Item]) -> Iterator[list[_Entry]]:
        """Batches in input order, the next one decoding while one is being scored."""
        entries: deque[_Entry] = deque()
        for item in items:
            entries.append(self._start(item))
            while len(entries) >= 2 * self.batch_size:
                yield [entries.popleft() for _ in range(self.batch_size)]
        while entries:
            yield [entries.popleft() for _ in range(min(self.batch_size, len(entries)))]

    def _start(self, item: Item) -> _Entry:
        image = None
        if item.error is None:
            image = self._submit(item.image, item.content, self.specs)
        has_reference = item.reference is not None or item.reference_content is not None
        reference = self._reference(item) if image is not None and has_reference and self.reference_specs else None
        if item.content is not None or item.reference_content is not None:  # they are decoded long before it is scored
            item = replace(item, content=None, reference_content=None)
        return _Entry(item, image, reference)

    def _submit(
        self, path: str | None, content: Content | None, specs: tuple[Preprocess, ...], key: tuple[Any, ...] = ()
    ) -> _Image:
        name = path or ("" if content is None else "bytes")
        return _Image(name, self.pool.submit(name, content, specs), key)

    def _reference(self, item: Item) -> _Image:
        content = item.reference_content
        key = _version(item.reference or "") if content is None else _digest(content)
        reference = self.references.pop(key, None)
        if reference is None:
            reference = self._submit(item.reference, content, self.reference_specs, key)
        self.references[key] = reference
        while len(self.references) > MAX_REFERENCES:
            self.references.popitem(last=False)
        return reference

    @torch.no_grad()  # a metric made as a loss would keep a graph
    def _score(self, entries: list[_Entry]) -> list[Record]:
        images = [self._preprocessed(entry.image) for entry in entries]
        references = [self._preprocessed(entry.reference) for entry in entries]
        errors = [
            [_error(metric, *facts) for facts in zip(entries, images, references, strict=True)]
            for metric in self.metrics
        ]
        encoded: dict[Encoder, dict[int, _Encoded]] = {}
        for encoder in dict.fromkeys(self.encoders):
            users = [column for column, each in zip(errors, self.encoders, strict=True) if each is encoder]
            wanted = [index for index in range(len(entries)) if any(column[index] is None for column in users)]
            found = self._encode(encoder, [_pixels(images[index], encoder) for index in wanted], self.maps)
            encoded[encoder] = {index: each for index, each in zip(wanted, found, strict=True) if each is not None}
            for index in set(wanted) - encoded[encoder].keys():
                for column in users:
                    column[index] = column[index] or _too_large(entries[index].item.image, encoder)
        columns = [
            self._records(metric, encoder, entries, encoded[encoder], column)
            for metric, encoder, column in zip(self.metrics, self.encoders, errors, strict=True)
        ]
        for entry, image in zip(entries, images, strict=True):
            if entry.reference is not None and isinstance(image, str) and not entry.reference.features:
                self.references.pop(entry.reference.key, None)  # whose pixels nothing may ever need
        return [record for row in zip(*columns, strict=True) for record in row]

    def _preprocessed(self, picture: _Image | None) -> Preprocessed:
        decoding = picture.decoding if picture is not None else None
        return self.pool.result(decoding) if decoding is not None else {}

    def _records(
        self,
        metric: Metric,
        encoder: Encoder,
        entries: list[_Entry],
        encoded: dict[int, _Encoded],
        errors: list[str | None],
    ) -> list[Record]:
        """Records of a batch by one metric, from what the network says of its images."""
        good = [index for index, error in enumerate(errors) if error is None]
        kept: dict[int, Tensor] = {}
        if metric.requires_reference:
            found = self._encode_references(encoder, [entries[index].reference for index in good])
            kept = {index: each for index, each in zip(good, found, strict=True) if each is not None}
            for index in set(good) - kept.keys():
                reference = entries[index].reference
                errors[index] = f"reference {_too_large(reference.name if reference else '', encoder)}"
            good = list(kept)
        tables: dict[int, dict[str, float]] = {}
        maps: dict[int, np.ndarray] = {}
        if good:
            features = torch.stack([encoded[index].features for index in good])
            references = torch.stack(list(kept.values())) if kept else None
            for index, scores in zip(good, metric.regress(features, references).tolist(), strict=True):
                if all(map(math.isfinite, scores)):
                    tables[index] = dict(zip(metric.dimensions, scores, strict=True))
                else:
                    errors[index] = f"{entries[index].item.image}: the score is not a finite number"
            drawn = _placed(metric, [encoded[index].maps for index in good], features, references)
            maps = dict(zip(good, drawn, strict=False))  # there are none where they were not asked for
        return [
            Record(
                image=entry.item.image,
                reference=entry.item.reference,
                group=entry.item.group,
                metric=metric.name,
                scores=tables.get(index, {}),
                error=errors[index],
                quality_map=maps.get(index) if errors[index] is None else None,
                extra=entry.item.extra,
            )
            for index, entry in enumerate(entries)
        ]

    def _encode_references(self, encoder: Encoder, images: Sequence[_Image | None]) -> list[Tensor | None]:
        """Features (D,) of references, each distinct one encoded once, whichever lane needs it first.

        None of one that does not fit in memory.
        """
        wanted = [picture for picture in images if picture is not None]
        fresh = {id(picture): picture for picture in wanted if encoder not in picture.features}
        with ExitStack() as locks:
            for _, picture in sorted(fresh.items()):  # in one order: two lanes never wait for each other
                locks.enter_context(picture.lock)
            still_fresh = [picture for picture in fresh.values() if encoder not in picture.features]
            pixels = [_pixels(self._preprocessed(picture), encoder) for picture in still_fresh]
            for picture, encoded in zip(still_fresh, self._encode(encoder, pixels), strict=True):
                picture.features[encoder] = None if encoded is None else encoded.features
                if picture.features.keys() == self.reference_encoders:
                    picture.decoding = None  # the pixels are not needed again
        return [picture.features[encoder] for picture in wanted]

    def _encode(self, encoder: Encoder, pixels: list[Tensor], maps: Maps | None = None) -> list[_Encoded | None]:
        """What the network says of preprocessed images of any shapes, in batches of equal shape.

        None of an image that does not fit in memory even alone.
        """
        groups: dict[torch.Size, list[int]] = {}
        for index, picture in enumerate(pixels):
            groups.setdefault(picture.shape, []).append(index)
        encoded: dict[int, _Encoded] = {}
        for shape, indices in groups.items():
            rest = iter(indices)
            while part := list(islice(rest, self.fitting.get((encoder, shape), self.batch_size))):
                read = _read(encoder, [pixels[index] for index in part], maps)
                if read is not None:
                    features, drawn = read
                    for row, index in enumerate(part):
                        encoded[index] = _Encoded(features[row], None if drawn is None else drawn[row])
                    continue
                torch.cuda.empty_cache()
                if len(part) > 1:
                    self.fitting[encoder, shape] = len(part) // 2
                    rest = iter([*part, *rest])
        return [encoded.get(index) for index in range(len(pixels))]


def _default_batch(metrics: Sequence[Metric]) -> int:
    if any(each.config.preprocess.resize is None for each in metrics):
        return DEFAULT_BATCH_NATIVE
    device = metrics[0].device
    size = DEFAULT_BATCH.get(device.type, 16)
    if device.type != "cuda":
        return size
    free, _ = torch.cuda.mem_get_info(device)
    sides = [each.config.preprocess.crop or each.config.preprocess.resize or 0 for each in metrics]
    return max(1, min(size, int(MEMORY_SHARE * free) // (BYTES_PER_PIXEL * max(sides) ** 2)))


def _until_failure(items: Iterable[Item], failures: list[Exception]) -> Iterator[Item]:
    """The items up to where listing them fails, which is noted."""
    try:
        yield from items
    except Exception as failure:
        failures.append(failure)


def _read(encoder: Encoder, pixels: list[Tensor], maps: Maps | None) -> tuple[Tensor, Tensor | None] | None:
    """What the network says of a batch; None if that takes more memory than there is."""
    try:
        return encoder.encode(_stacked(pixels), maps)
    except RuntimeError as error:  # of a GPU, of the CPU
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        return None


def _too_large(name: str, encoder: Encoder) -> str:
    return f"{name}: not enough memory on {encoder.metric.device} to score it"


def _placed(
    metric: Metric, maps: Sequence[Tensor | None], features: Tensor, references: Tensor | None
) -> Iterator[np.ndarray]:
    """Quality maps of images with feature maps (C, h, w) and features (B, D); none where no maps were kept."""
    kept = [each for each in maps if each is not None]
    if len({each.shape for each in kept}) == 1:  # at once
        yield from metric.score_map(torch.stack(kept), features, references).numpy(force=True)
        return
    for row, each in enumerate(kept):
        one = slice(row, row + 1)
        reference = references[one] if references is not None else None
        yield metric.score_map(each[None], features[one], reference)[0].numpy(force=True)


def _stacked(images: list[Tensor]) -> Tensor:
    """(B, 3, h, w) of images (3, h, w), channels last in memory as they are."""
    return torch.stack([picture.permute(1, 2, 0) for picture in images]).permute(0, 3, 1, 2)


def _version(path: str) -> tuple[Any, ...]:
    """What tells a file from what was there before under the same path."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):  # a NUL byte in the name
        return (path,)
    return path, facts.st_size, facts.st_mtime_ns


def _digest(content: Content) -> tuple[Any, ...]:
    data = content if isinstance(content, bytes) else content.tobytes()
    return hashlib.sha256(data).digest(), getattr(content, "shape", None)


def _error(metric: Metric, entry: _Entry, image: Preprocessed, reference: Preprocessed) -> str | None:
    """Why a metric can't score an entry."""
    if entry.image is None:
        return entry.item.error
    if isinstance(image, str):
        return image
    if not metric.requires_reference:
        return None
    if entry.reference is None:
        return entry.item.reference_error or f"{entry.item.image}: no reference given, and {metric.name} needs one"
    return f"reference {reference}" if isinstance(reference, str) else None


def _pixels(preprocessed: Preprocessed, encoder: Encoder) -> Tensor:
    assert not isinstance(preprocessed, str)
    return preprocessed[encoder.spec]
