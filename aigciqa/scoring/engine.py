"""`score_files`: a stream of paths in, a stream of records out, in the same order."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aigciqa.create import as_metrics
from aigciqa.errors import ImageError, InputError
from aigciqa.heads import Head
from aigciqa.images.generation.read import generation_of
from aigciqa.metric import Metric
from aigciqa.records import Item, Record
from aigciqa.scoring.decoding import DECODERS, Decoder, DecoderPool, Decoding, Preprocessed
from aigciqa.scoring.encoder import BatchEncoder, Encoded, Encoder, Maps, encoders
from aigciqa.scoring.generation import wanted
from aigciqa.scoring.inference_threads import InferenceThreads
from aigciqa.scoring.items import PathLike, items_of
from aigciqa.scoring.reference_cache import Reference, ReferenceCache
from aigciqa.tables.columns import percentile_columns, std_columns
from aigciqa.utils.hardware import check_huge_pages, settle_threads
from aigciqa.utils.lookahead import look_ahead
from aigciqa.utils.paths import at_home

if TYPE_CHECKING:
    import numpy as np

    from aigciqa.images.generation.parameters import GenerationParameters

DEFAULT_BATCH = {"cpu": 8, "cuda": 64}
#: Metrics that see whole images at their own size hold few of them in memory at once.
DEFAULT_BATCH_NATIVE = 4
MAX_WORKERS = 8
#: What a network takes for each pixel that it sees, at most: the first feature maps of VGG in float32, several times.
BYTES_PER_PIXEL = 1024
#: How much of a GPU's free memory a batch may take by that measure.
MEMORY_SHARE = 0.25
#: Networks that run side by side on a CPU; more would take more memory for little gain.
MAX_INFERENCE_THREADS = 8


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
    uncertainty: bool = False,
    percentiles: bool = False,
    generation: Sequence[str] | None = None,
    group_by: str | None = None,
) -> Generator[Record, None, None]:
    """Score files, lazily.

    Files are decoded in threads; memory does not grow with their number, and at most
    `aigciqa.utils.memory.CONTENT_BYTES` of encoded images are held at a time. With another `batch_size`, or number of
    `workers`, scores in float32 change by less than 1e-5. Each distinct reference is decoded and encoded once (the
    latest 1,024 are remembered). A file whose reading or decoding hangs in one of the threads times out after two
    minutes; what hangs in the caller's does not: with `workers=0`, or where the system does not say when a reference
    was changed.

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
        uncertainty: give each record's `scores` a `<dimension>_std`, too, as `Metric.predict` does.
        percentiles: give them a `<dimension>_percentile`, too, in the same way.
        generation: read how images were generated, as `read_generation` does; each record then has `generation`. The
            fields named here, or `"all"`, are text in its `extra`, unless the `Item` has text of that name.
        group_by: a field of generation parameters, or a key of `Item.extra`: what it says is the record's `group`.

    Yields:
        A `Record` per image and metric, in input order. A file that can't be scored is a record with `error` set.

    Raises:
        ValueError, TypeError: unusable arguments; `dtype` or `device` together with a `Metric`, which has its own.
        ImageError: an image can't be scored, and `strict` is set.
        Exception: whatever `images` raises, when all that came before is scored.

    Example:
        >>> import aigciqa
        >>> import numpy as np
        >>> black = aigciqa.Item("black", content=np.zeros((100, 200, 3), np.uint8))
        >>> for record in aigciqa.score_files([black, "gone.png"], metric="nr-lite"):
        ...     print(record.image, list(record.scores), record.error)
        black ['quality'] None
        gone.png [] gone.png: No such file or directory
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
    check_abilities(metrics, decoder, uncertainty, percentiles)
    items = items_of(images, references, metrics)
    wanted(generation, group_by)  # or an error

    def records() -> Generator[Record, None, None]:
        engine = Engine(
            metrics, batch_size, workers, strict,
            maps=maps, decoder=decoder, uncertainty=uncertainty, percentiles=percentiles,
            generation=generation, group_by=group_by,
        )  # fmt: skip
        with closing(engine):
            yield from engine.run(items)

    return records()  # arguments are checked before the first record is asked for


def check_abilities(metrics: Sequence[Metric], decoder: Decoder, uncertainty: bool, percentiles: bool) -> None:
    """Raise InputError unless all metrics can do what `score_files` is asked for."""
    for metric in metrics:
        if decoder == "nvjpeg" and metric.device.type != "cuda":
            raise InputError(f"decoder 'nvjpeg' needs metrics on a CUDA device; {metric.name} is on {metric.device}")
        if uncertainty and type(metric.head).deviations is Head.deviations:
            raise InputError(
                f"{metric.name}: how uncertain its scores are, only a head from `aigciqa fit` knows; leave "
                "uncertainty out"
            )
        if percentiles:
            metric.config.reference_set()  # or an error


class Engine:
    """Metrics made ready to score; it remembers references from one `run` to the next.

    On an accelerator one batch is scored while the next is decoded. On a CPU, batches are split among
    `InferenceThreads`. The arguments are those of `score_files`.
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
        uncertainty: bool = False,
        percentiles: bool = False,
        generation: Sequence[str] | None = None,
        group_by: str | None = None,
    ) -> None:
        settle_threads()
        batch_size = batch_size or default_batch(metrics)
        if workers is None:
            workers = min(MAX_WORKERS, os.cpu_count() or 1)
        self.metrics = metrics
        self.encoders = dict(zip(metrics, encoders(metrics), strict=True))
        self.specs = tuple(dict.fromkeys(each.spec for each in self.encoders.values()))
        self.strict = strict
        self.maps = maps
        self.uncertainty = uncertainty
        self.percentiles = percentiles
        self.generation = wanted(generation, group_by)
        is_on_cpu = all(each.device.type == "cpu" for each in metrics)
        if is_on_cpu and any(each.network is not None for each in self.encoders.values()):
            check_huge_pages()
        count = min(torch.get_num_threads(), batch_size, MAX_INFERENCE_THREADS) if is_on_cpu and workers else 1
        self.batch_size = math.ceil(batch_size / count)
        self.pool = DecoderPool(workers, decoder, metrics[0].device)
        self.threads = InferenceThreads(count)
        self.batches = BatchEncoder(self.batch_size)
        self.comparing = [metric for metric in metrics if metric.requires_reference]
        self.references = ReferenceCache(self.pool, self.batches, [self.encoders[each] for each in self.comparing])

    def run(self, items: Iterable[Item]) -> Generator[Record, None, None]:
        """Score a stream of items, lazily; a record per item and metric, in order."""
        failures: list[Exception] = []
        for records in self.threads.map(self._score, self._batches(_until_failure(items, failures))):
            for record in records:
                if self.strict and record.error is not None:
                    raise ImageError(record.error)
                yield record
        if failures:
            raise failures[0]

    def close(self) -> None:
        """End the threads."""
        self.pool.close()
        self.threads.close()

    def _batches(self, items: Iterable[Item]) -> Iterator[list[Entry]]:
        """Batches in input order, the next one decoding while one is being scored."""
        entries = look_ahead(map(self._start, items), self.batch_size)
        while batch := list(islice(entries, self.batch_size)):
            yield batch

    def _start(self, item: Item) -> Entry:
        """Begin to decode an item's images."""
        entry = Entry(item)
        if item.error is None:
            name = item.image or ("" if item.content is None else "bytes")
            look = partial(entry.look, item) if self.generation is not None else None
            entry.image = self.pool.submit(name, item.content, self.specs, look)
            entry.reference = self.references.find(item)
        if item.content is not None or item.reference_content is not None:  # they are decoded long before it is scored
            entry.item = replace(item, content=None, reference_content=None)
        return entry

    @torch.no_grad()  # a metric made as a loss would keep a graph
    def _score(self, entries: list[Entry]) -> list[Record]:
        for entry in entries:
            self._wait(entry)
            if self.generation is not None:
                entry.item = self.generation.complete(entry.item, entry.generation)
        for encoder in dict.fromkeys(self.encoders.values()):
            self._encode(encoder, entries)
        for metric in self.metrics:
            self._regress(metric, entries)
        for entry in entries:
            if entry.reference is not None and not entry.preprocessed:
                self.references.forget_pixels(entry.reference)
        return [entry.record(metric) for entry in entries for metric in self.metrics]

    def _wait(self, entry: Entry) -> None:
        """Wait until an entry's images are decoded."""
        if entry.image is None:
            entry.fail(self.metrics, entry.item.error or "")
            return
        try:
            entry.preprocessed = self.pool.result(entry.image)
        except ImageError as error:
            entry.fail(self.metrics, str(error))
            return
        if entry.reference is None:
            for metric in self.comparing:
                missing = f"{entry.item.image}: no reference given, and {metric.name} needs one"
                entry.fail([metric], entry.item.reference_error or missing)
            return
        try:
            self.references.wait(entry.reference)
        except ImageError as error:
            entry.fail(self.comparing, f"reference {error}")

    def _encode(self, encoder: Encoder, entries: list[Entry]) -> None:
        """Encode the images that some metric on an encoder can score."""
        users = [metric for metric in self.metrics if self.encoders[metric] is encoder]
        wanted = [entry for entry in entries if any(metric not in entry.failures for metric in users)]
        pixels = [entry.preprocessed[encoder.spec] for entry in wanted]
        for entry, encoded in zip(wanted, self.batches.encode(encoder, pixels, self.maps), strict=True):
            if encoded is None:
                entry.fail(users, _too_large(entry.item.image, encoder))
            else:
                entry.encoded[encoder] = encoded

    def _regress(self, metric: Metric, entries: list[Entry]) -> None:
        """Score encoded images by a metric."""
        entries = [entry for entry in entries if metric not in entry.failures]
        found = self._reference_features(metric, entries) if metric.requires_reference else []
        entries = [entry for entry in entries if metric not in entry.failures]
        if not entries:
            return
        encoded = [entry.encoded[self.encoders[metric]] for entry in entries]
        features = torch.stack([each.features for each in encoded])
        references = torch.stack(found) if found else None
        names, values = list(metric.dimensions), metric.regress(features, references)
        if self.uncertainty:
            names += std_columns(metric.dimensions)
            values = torch.cat([values, metric.deviations(features, references)], dim=1)
        rows = values.tolist()
        if self.percentiles:
            names += percentile_columns(metric.dimensions)
            ranks = metric.config.percentiles(values[:, : len(metric.dimensions)].numpy(force=True))
            rows = [row + rank for row, rank in zip(rows, ranks.tolist(), strict=True)]
        for entry, scores in zip(entries, rows, strict=True):
            if all(map(math.isfinite, scores)):
                entry.scores[metric] = dict(zip(names, scores, strict=True))
            else:
                entry.fail([metric], f"{entry.item.image}: the score is not a finite number")
        if self.maps is not None:
            for entry, quality_map in zip(entries, _quality_maps(metric, encoded, features, references), strict=True):
                if metric not in entry.failures:
                    entry.quality_maps[metric] = quality_map

    def _reference_features(self, metric: Metric, entries: list[Entry]) -> list[Tensor]:
        """Features (D,) of the entries' references; an entry whose reference does not fit in memory fails."""
        encoder = self.encoders[metric]
        references = [entry.reference for entry in entries if entry.reference is not None]  # else they have failed
        found = self.references.features(encoder, references)
        for entry, reference, features in zip(entries, references, found, strict=True):
            if features is None:
                entry.fail([metric], f"reference {_too_large(reference.name, encoder)}")
        return [features for features in found if features is not None]


@dataclass(eq=False)
class Entry:
    """An item on its way to the records: what has been made of it so far, and why a metric can't score it."""

    item: Item  # without the content of its images
    image: Decoding | None = None  # None if the item has an error
    reference: Reference | None = None  # if it has one and a metric needs it
    generation: GenerationParameters | None = None  # if it is to be read
    preprocessed: Preprocessed = field(default_factory=dict)
    encoded: dict[Encoder, Encoded] = field(default_factory=dict)
    scores: dict[Metric, dict[str, float]] = field(default_factory=dict)
    quality_maps: dict[Metric, np.ndarray] = field(default_factory=dict)
    failures: dict[Metric, str] = field(default_factory=dict)

    def look(self, item: Item, content: bytes) -> None:
        """Note how the image was generated."""
        self.generation = generation_of(content, at_home(item.image) if item.content is None else None)

    def fail(self, metrics: Iterable[Metric], reason: str) -> None:
        """Note why metrics can't score it; what was noted first stays."""
        for metric in metrics:
            self.failures.setdefault(metric, reason)

    def record(self, metric: Metric) -> Record:
        """What came of it by one metric."""
        item, scores = self.item, self.scores.get(metric, {})
        error, quality_map = self.failures.get(metric), self.quality_maps.get(metric)
        return Record(
            item.image, item.reference, item.group, metric.name, scores, error, quality_map, item.extra, self.generation
        )


def default_batch(metrics: Sequence[Metric]) -> int:
    """Images per pass through the networks, as many as the free memory of a GPU allows."""
    if any(each.config.preprocess.resize is None for each in metrics):
        return DEFAULT_BATCH_NATIVE
    device = metrics[0].device
    size = DEFAULT_BATCH.get(device.type, 16)
    if device.type != "cuda":
        return size
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # kept for torch's next tensors
    sides = [each.config.preprocess.crop or each.config.preprocess.resize or 0 for each in metrics]
    return max(1, min(size, int(MEMORY_SHARE * free) // (BYTES_PER_PIXEL * max(sides) ** 2)))


def _until_failure(items: Iterable[Item], failures: list[Exception]) -> Iterator[Item]:
    """The items up to where listing them fails, which is noted."""
    try:
        yield from items
    except Exception as failure:
        failures.append(failure)


def _too_large(name: str, encoder: Encoder) -> str:
    return f"{name}: not enough memory on {encoder.metric.device} to score it"


def _quality_maps(
    metric: Metric, encoded: Sequence[Encoded], features: Tensor, references: Tensor | None
) -> Iterator[np.ndarray]:
    """Quality maps of encoded images, whose features are stacked (B, D)."""
    maps = [each.maps for each in encoded if each.maps is not None]
    step = len(maps) if len({each.shape for each in maps}) == 1 else 1
    for start in range(0, len(maps), step):
        rows = slice(start, start + step)
        some = references[rows] if references is not None else None
        yield from metric.score_map(torch.stack(maps[rows]), features[rows], some).numpy(force=True)
