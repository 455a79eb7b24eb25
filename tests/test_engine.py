"""`score_files`: order, batches, workers, references, errors, memory."""

from __future__ import annotations

import contextlib
import copy
import itertools
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import aigciqa
from aigciqa.images.decode import load_image
from aigciqa.images.preprocess import Preprocessor
from aigciqa.scoring import decoding, engine, reference_cache
from aigciqa.scoring.encoder import BatchEncoder, Encoder
from aigciqa.scoring.engine import InferenceThreads
from tests.conftest import Watch, draw, untrained

Write = Callable[..., list[str]]


def scores_of(records: Iterator[aigciqa.Record]) -> list[float]:
    return [next(iter(record.scores.values())) for record in records]


def files(reads: list[Any]) -> list[str]:
    """What calls of `read_content` have read, sorted."""
    return sorted(call.args[0] for call in reads)


def count(encodes: list[Any]) -> int:
    """How many images calls of `Encoder.encode` have encoded."""
    return sum(len(call.args[1]) for call in encodes)


@pytest.fixture
def mixed(write_images: Write) -> list[str]:
    """Twelve images of several shapes, and three bad ones among them."""
    paths = []
    for index in range(12):
        paths += write_images("mixed", f"{index:02}.png", size=[(60, 80), (80, 60), (64, 64)][index % 3])
    for index in (3, 9, 10):
        Path(paths[index]).write_bytes(b"not an image")
    return paths


@pytest.mark.parametrize("name", ["nr-resnet18", "nr-lite"])
def test_scores_depend_neither_on_batch_size_nor_on_workers(name: str, mixed: list[str]) -> None:
    metric = untrained(name)
    expected = [None if index in (3, 9, 10) else metric(path).item() for index, path in enumerate(mixed)]
    for batch_size, workers in ((1, 0), (3, 4), (16, 1)):
        records = list(aigciqa.score_files(mixed, metric=metric, batch_size=batch_size, workers=workers))
        assert [record.image for record in records] == mixed
        for record, value in zip(records, expected, strict=True):
            assert (record.error is not None) == (value is None)
            assert record.metric == name
            if value is None:
                assert record.scores == {}
                assert record.error is not None
                assert record.error.startswith(f"{record.image}: not an image")
            else:
                assert tuple(record.scores) == metric.dimensions
                assert record.scores["quality"] == pytest.approx(value, abs=1e-5)


def test_full_reference_scores_are_those_of_the_metric(write_images: Write) -> None:
    metric = untrained("fr-resnet18")
    images, prompts = write_images("gen", "a.png", "b.png", "c.png"), write_images("prompts", "a.png", "x.png")
    references = [prompts[0], prompts[1], prompts[0]]
    expected = metric(images, references).tolist()
    assert scores_of(aigciqa.score_files(images, metric=metric, references=references)) == pytest.approx(
        expected, abs=1e-5
    )
    one = aigciqa.score_files(iter(images), metric=metric, references=Path(prompts[1]), batch_size=2)
    assert scores_of(one) == pytest.approx(metric(images, [prompts[1]] * 3).tolist(), abs=1e-5)


def test_each_reference_is_decoded_and_encoded_once(write_images: Write, watch: Watch) -> None:
    metric = untrained("fr-resnet18")
    images = write_images("gen", *(f"{index}.png" for index in range(9)))
    prompts = write_images("prompts", "0.png", "1.png")
    reads, encodes = watch(decoding, "read_content"), watch(Encoder, "encode")
    list(aigciqa.score_files(images, metric=metric, references=[prompts[i % 2] for i in range(9)], batch_size=2))
    assert files(reads) == sorted(images + prompts)
    assert count(encodes) == 11


def test_metrics_of_one_trunk_share_its_features(write_images: Write, watch: Watch) -> None:
    nr = untrained("nr-resnet18")
    fr, other = copy.deepcopy(untrained("fr-resnet18")), copy.deepcopy(nr)
    fr.backbone.load_state_dict(nr.backbone.state_dict())
    with torch.no_grad():
        next(other.backbone.parameters()).add_(0.1)
    images, prompts = write_images("gen", "a.png", "b.png", "c.png"), write_images("prompts", "a.png")
    encodes = watch(Encoder, "encode")
    records = list(aigciqa.score_files(images, metric=[nr, fr, other], references=prompts[0]))
    assert len({id(call.args[0]) for call in encodes}) == 2
    assert count(encodes) == 3 + 1 + 3
    found = [record.scores["quality"] for record in records]
    alone = torch.stack([nr(images), fr(images, [prompts[0]] * 3), other(images)], dim=1)
    assert found == pytest.approx(alone.flatten().tolist(), abs=1e-5)


def test_a_reference_that_changes_is_read_again(write_images: Write) -> None:
    metric = untrained("fr-resnet18")
    images, (prompt, other) = write_images("gen", "a.png", "b.png"), write_images("prompts", "a.png", "b.png")

    def items() -> Iterator[aigciqa.Item]:
        yield aigciqa.Item(images[0], prompt)
        expected.append(metric(images[0], prompt).item())
        shutil.copy(other, prompt)
        yield aigciqa.Item(images[1], prompt)
        expected.append(metric(images[1], other).item())

    expected: list[float] = []
    found = scores_of(aigciqa.score_files(items(), metric=metric, batch_size=1))
    assert found == pytest.approx(expected, abs=1e-5)


def test_forgotten_references_are_read_again(
    write_images: Write, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_cache, "MAX_REFERENCES", 1)
    metric = untrained("fr-resnet18")
    images, prompts = write_images("gen", "a.png", "b.png", "c.png"), write_images("prompts", "a.png", "b.png")
    references = [prompts[0], prompts[1], prompts[0]]
    reads = watch(decoding, "read_content")
    found = scores_of(aigciqa.score_files(images, metric=metric, references=references, batch_size=1))
    assert found == pytest.approx(metric(images, references).tolist(), abs=1e-5)
    assert files(reads) == sorted(images + references)


def test_references_of_images_that_fail_are_not_kept(write_images: Write, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"bad")
    images, prompts = write_images("gen", "a.png"), write_images("prompts", "a.png", "b.png")
    items = [aigciqa.Item(str(tmp_path / "bad.png"), prompts[0]), aigciqa.Item(images[0], prompts[1])]
    with closing(engine.Engine([untrained("fr-resnet18")], None, 0)) as scoring:
        assert [record.error is None for record in scoring.run(items)] == [False, True]
        assert [key[0] for key in scoring.references.kept] == [prompts[1]]


def test_an_image_that_fails_costs_no_other_its_reference(write_images: Write, tmp_path: Path, watch: Watch) -> None:
    (tmp_path / "bad.png").write_bytes(b"bad")
    (image,), (prompt,) = write_images("gen", "a.png"), write_images("prompts", "a.png")
    reads = watch(decoding, "read_content")
    images = [str(tmp_path / "bad.png"), image] * 4
    list(aigciqa.score_files(images, metric=untrained("fr-resnet18"), references=prompt, batch_size=2, workers=0))
    assert files(reads).count(prompt) == 1


def test_a_metric_made_as_a_loss_scores_files_as_well(write_images: Write) -> None:
    images = write_images("gen", "a.png")
    records = aigciqa.score_files(images, metric=untrained("nr-resnet18", as_loss=True))
    assert scores_of(records) == pytest.approx(untrained("nr-resnet18")(images).tolist(), abs=1e-5)


def test_several_metrics_share_the_decoding(write_images: Write, watch: Watch) -> None:
    metrics = [untrained(name) for name in ("nr-resnet18", "nr-lite", "fr-resnet18", "fr-lite")]
    images, prompts = write_images("gen", "a.png", "b.png"), write_images("prompts", "a.png")
    reads = watch(decoding, "read_content")
    records = list(aigciqa.score_files(images, metric=metrics, references=prompts[0]))
    assert files(reads) == sorted(images + prompts)
    assert [(record.image, record.metric) for record in records] == [
        (image, metric.name) for image in images for metric in metrics
    ]
    for record, metric in zip(records, metrics * 2, strict=True):
        alone = metric(record.image, *([prompts[0]] if metric.requires_reference else []))
        assert record.scores["quality"] == pytest.approx(alone.item(), abs=1e-5)


def test_a_missing_or_broken_reference_is_the_error_of_its_image_alone(write_images: Write, tmp_path: Path) -> None:
    images, prompts = write_images("gen", "a.png", "b.png", "c.png"), write_images("prompts", "a.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"x")
    items = [
        aigciqa.Item(images[0], str(broken)),
        aigciqa.Item(images[1]),
        aigciqa.Item(images[2], prompts[0], group="g"),
    ]
    metrics = [untrained("nr-resnet18"), untrained("fr-resnet18")]
    records = list(aigciqa.score_files(items, metric=metrics))
    assert [record.error is None for record in records] == [True, False, True, False, True, True]
    assert records[1].error is not None
    assert records[1].error.startswith(f"reference {broken}: not an image")
    assert records[3].error == f"{images[1]}: no reference given, and fr-resnet18 needs one"
    assert (records[5].reference, records[5].group) == (prompts[0], "g")


def test_images_may_come_from_a_generator_without_end(write_images: Write) -> None:
    image = write_images("gen", "a.png")[0]
    records = aigciqa.score_files(itertools.repeat(image), metric=untrained("nr-resnet18"), batch_size=2)
    assert len({next(records).image for _ in range(5)}) == 1
    records.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_came_before_a_source_fails_is_scored(write_images: Write, workers: int) -> None:
    images = write_images("gen", *(f"{index}.png" for index in range(7)))

    def source() -> Iterator[str]:
        yield from images
        raise OSError("the store went away")

    records = aigciqa.score_files(source(), metric=untrained("nr-resnet18"), batch_size=2, workers=workers)
    assert [next(records).image for _ in images] == images
    with pytest.raises(OSError, match="the store went away"):
        next(records)


def test_every_error_says_which_image(write_images: Write, tmp_path: Path, watch: Watch) -> None:
    strip, (image, odd) = str(tmp_path / "strip.png"), write_images("gen", "a.png", "odd.png")
    Image.new("RGB", (3000, 1)).save(strip)

    def broken(path: str, *_: Any) -> None:
        if path == odd:
            raise KeyError("what nobody expects")

    watch(decoding, "read_content", broken)
    items = [
        aigciqa.Item(strip, image), aigciqa.Item(image, strip), aigciqa.Item(odd, image),
        aigciqa.Item("", image, content=b"bad"), aigciqa.Item(image, "a\0b.png"), aigciqa.Item("", image),
    ]  # fmt: skip
    records = list(aigciqa.score_files(items, metric=untrained("fr-resnet18"), workers=1))
    too_long = "3000 x 1 is a strip of more than 1000:1; cut it before scoring"
    assert [record.error for record in records[:3]] == [
        f"{strip}: {too_long}", f"reference {strip}: {too_long}", f"{odd}: KeyError: 'what nobody expects'",
    ]  # fmt: skip
    assert [(record.error or "")[:30] for record in records[3:]] == [
        "bytes: not an image in a forma", "reference a\0b.png: embedded nu", "'': No such file or directory",
    ]  # fmt: skip


def test_strict_raises_at_the_first_bad_file(mixed: list[str]) -> None:
    records = aigciqa.score_files(mixed, metric=untrained("nr-resnet18"), strict=True, batch_size=4)
    assert [next(records).image for _ in range(3)] == mixed[:3]
    with pytest.raises(aigciqa.ImageError, match=r"03.png: not an image"):
        next(records)


class TestMemory:
    @pytest.fixture(
        params=[
            "CUDA out of memory. Tried to allocate",
            "DefaultCPUAllocator: can't allocate memory: you",
            "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
            "GET was unable to find an engine to execute this computation",  # cuDNN's, none of which had room
        ]
    )
    def no_memory(self, request: pytest.FixtureRequest) -> RuntimeError:
        """What torch raises."""
        kind = torch.cuda.OutOfMemoryError if request.param.startswith("CUDA") else RuntimeError
        return kind(request.param)

    def test_batches_shrink(self, write_images: Write, watch: Watch, no_memory: RuntimeError) -> None:
        metric = untrained("nr-resnet18")
        images = write_images("gen", *(f"{index}.png" for index in range(11)))
        expected = metric(images).tolist()

        def small_memory(_: Encoder, pixels: torch.Tensor, *__: Any) -> None:
            if len(pixels) > 2:
                raise no_memory

        encodes = watch(Encoder, "encode", small_memory)
        found = scores_of(aigciqa.score_files(images, metric=metric, batch_size=8))
        assert found == pytest.approx(expected, abs=1e-5)
        assert [len(call.args[1]) for call in encodes] == [8, 4, 2, 2, 2, 2, 2, 1]

    def test_batches_shrink_where_decoded_images_are_on_the_gpu(self, write_images: Write, watch: Watch) -> None:
        """There, putting them together takes memory, too."""
        metric = untrained("nr-resnet18")
        images = [
            metric.preprocessor.image(load_image(path)) for path in write_images("gen", "a.png", "b.png", "c.png")
        ]

        def small_memory(parts: list[torch.Tensor]) -> None:
            if len(parts) > 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

        watch(torch, "stack", small_memory)
        encoded = BatchEncoder(3).encode(Encoder(metric), images)
        assert all(each is not None for each in encoded)

    def test_only_of_the_shape_that_does_not_fit(self, write_images: Write, watch: Watch) -> None:
        native = aigciqa.create_metric("nr-lite", weights="native")
        sizes = {"a.png": (64, 64), "b.png": (64, 64), "c.png": (96, 96), "d.png": (96, 96)}
        images = [write_images("gen", name, size=size)[0] for name, size in sizes.items()]

        def small_memory(_: Encoder, pixels: torch.Tensor, *__: Any) -> None:
            if pixels.shape[-1] == 96 and len(pixels) > 1:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

        encodes = watch(Encoder, "encode", small_memory)
        records = aigciqa.score_files(images * 2, metric=native, batch_size=4)
        assert all(record.error is None for record in records)
        tried = [(len(call.args[1]), call.args[1].shape[-1]) for call in encodes]
        assert tried == [(2, 64), (2, 96), (1, 96), (1, 96), (2, 64), (1, 96), (1, 96)]

    def test_an_image_that_does_not_fit_alone_is_an_error(
        self, write_images: Write, watch: Watch, no_memory: RuntimeError
    ) -> None:
        images, prompts = write_images("gen", "a.png", "b.png", "c.png"), write_images("prompts", "a.png", "large.png")
        large = {
            untrained("nr-resnet18").preprocessor.image(load_image(path)).sum().item()
            for path in (images[1], prompts[1])
        }

        def small_memory(_: Encoder, pixels: torch.Tensor, *__: Any) -> None:
            if large & {image.sum().item() for image in pixels}:
                raise no_memory

        watch(Encoder, "encode", small_memory)
        metrics = [untrained("nr-resnet18"), untrained("fr-resnet18")]
        references = [prompts[0], prompts[0], prompts[1]]
        records = list(aigciqa.score_files(images, metric=metrics, references=references))
        no_room = "not enough memory on cpu to score it"
        assert [record.error for record in records] == [
            None, None, f"{images[1]}: {no_room}", f"{images[1]}: {no_room}",
            None, f"reference {prompts[1]}: {no_room}",
        ]  # fmt: skip
        assert [bool(record.scores) for record in records] == [record.error is None for record in records]

    @pytest.mark.parametrize(("free", "kept", "size"), [(80e9, 0, 64), (4e9, 0, 19), (1e9, 3e9, 19), (1e6, 0, 1)])
    def test_the_default_batch_fits_the_free_memory_of_a_gpu(
        self, free: float, kept: float, size: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What torch keeps of tensors that are gone is free, too."""
        metric = untrained("nr-resnet18")
        assert engine.default_batch([metric]) == 8
        monkeypatch.setattr(type(metric), "device", torch.device("cuda"))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), int(80e9)))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(kept + 1e9))
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: int(1e9))
        assert engine.default_batch([metric]) == size


def test_a_score_that_is_no_number_is_an_error(write_images: Write) -> None:
    metric = copy.deepcopy(untrained("nr-resnet18"))
    metric.head.register_forward_hook(lambda *_: torch.tensor([[1.0, 1, 1, 1], [1, float("nan"), 1, 1]]))
    records = list(aigciqa.score_files(write_images("gen", "a.png", "b.png"), metric=metric))
    assert records[0].error is None
    assert records[1].error is not None
    assert "not a finite number" in records[1].error
    assert records[1].scores == {}


def test_names_create_metrics(write_images: Write) -> None:
    images = write_images("gen", "a.png")
    record = next(aigciqa.score_files(images, metric="nr-lite"))
    assert record.scores["quality"] == pytest.approx(aigciqa.create_metric("nr-lite")(images).item(), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"images": "a.png"}, TypeError, r"for one file pass \['a.png'\]"),
        ({"images": "."}, TypeError, r"list the files of a folder, as in `Path\('.'\).rglob\('\*.png'\)`"),
        ({"generation": True}, ValueError, "generation is 'all' or a sequence of fields.*; got True"),
        ({"metric": "no-such"}, ValueError, "unknown metric 'no-such'"),
        ({"metric": []}, ValueError, "no metric given"),
        ({"metric": torch.nn.Identity()}, TypeError, "name of a metric, a Metric, .*; got Identity"),
        ({"batch_size": 0}, ValueError, "batch_size is 1 or more; got 0"),
        ({"workers": -1}, ValueError, "workers is 0"),
        ({"dtype": "float8"}, ValueError, "dtype is one of"),
        ({"references": "b.png"}, ValueError, "nr-lite takes none"),
        ({"metric": "fr-lite"}, ValueError, "fr-lite compares with a reference"),
        ({"metric": "fr-lite", "references": ["b.png"]}, ValueError, "2 images but 1 reference:"),
        ({"metric": "fr-lite", "references": iter(["b.png"])}, TypeError, "got a list_iterator: pass a list"),
        ({"metric": "fr-lite", "references": ["b.png"] * 3}, ValueError, "2 images but 3 references"),
        ({"metric": "fr-lite", "references": ["b.png"] * 3, "images": iter("ab")}, ValueError, "2 images but 3 ref"),
        (
            {"metric": "fr-lite", "references": ["b.png"], "images": iter("ab")},
            ValueError,
            "1 reference for at least 2",
        ),
    ],
)
def test_unusable_arguments_are_refused(arguments: dict[str, object], error: type[Exception], text: str) -> None:
    images = arguments.pop("images", ["a.png", "b.png"])
    with pytest.raises(error, match=text):
        list(aigciqa.score_files(images, **{"metric": "nr-lite", **arguments}))  # type: ignore[arg-type]


@pytest.fixture
def four_threads() -> Iterator[None]:
    """Torch with four threads, so that four networks run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
class TestInferenceThreads:
    def test_scores_and_order_are_those_of_one_thread(self, mixed: list[str]) -> None:
        metric = untrained("nr-resnet18")
        alone = list(aigciqa.score_files(mixed, metric=metric, workers=0))
        side_by_side = list(aigciqa.score_files(mixed, metric=metric, batch_size=6))
        assert [record.image for record in side_by_side] == mixed
        assert [record.error for record in side_by_side] == [record.error for record in alone]
        for one, other in zip(alone, side_by_side, strict=True):
            assert other.scores == pytest.approx(one.scores, abs=1e-5)

    def test_no_thread_is_left_over(self) -> None:
        torch.set_num_threads(7)
        with closing(InferenceThreads(5)) as threads:
            together = threading.Barrier(5)
            found = threads.map(lambda _: together.wait() * 0 + torch.get_num_threads(), range(5))
            assert sorted(found) == [1, 1, 1, 2, 2]

    def test_a_reference_is_encoded_by_one_of_them(self, write_images: Write, watch: Watch) -> None:
        metric = untrained("fr-resnet18")
        images, prompts = (
            write_images("gen", *(f"{index}.png" for index in range(12))),
            write_images("prompts", "0.png", "1.png"),
        )
        encodes = watch(Encoder, "encode")
        list(aigciqa.score_files(images, metric=metric, references=[prompts[i % 2] for i in range(12)], batch_size=4))
        assert count(encodes) == 12 + 2

    def test_torch_keeps_its_threads(self, mixed: list[str]) -> None:
        def threads_of_a_new_thread() -> int:
            found: list[int] = []
            thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
            thread.start()
            thread.join()
            return found[0]

        records = aigciqa.score_files(mixed, metric=untrained("nr-resnet18"))
        next(records)
        assert torch.get_num_threads() == 4
        records.close()
        assert torch.get_num_threads() == threads_of_a_new_thread() == 4

    def test_an_error_in_one_reaches_the_caller(self, mixed: list[str], watch: Watch) -> None:
        watch(Encoder, "encode", RuntimeError("the network broke"))
        with pytest.raises(RuntimeError, match="the network broke"):
            list(aigciqa.score_files(mixed, metric=untrained("nr-resnet18")))


class TestMaps:
    @pytest.mark.parametrize("maps", ["coarse", "dense"])
    @pytest.mark.parametrize("name", ["nr-resnet18", "fr-resnet18", "nr-lite", "fr-lite"])
    def test_their_mean_is_the_score(self, write_images: Write, name: str, maps: Any) -> None:
        metric = untrained(name) if "resnet" in name else aigciqa.create_metric(name)
        images, prompts = (
            write_images("gen", "a.png", "b.png", size=(150, 200)),
            write_images("prompts", "a.png", size=(90, 90)),
        )
        references = prompts[0] if metric.requires_reference else None
        for record in aigciqa.score_files(images, metric=metric, references=references, maps=maps):
            assert record.quality_map is not None
            assert record.quality_map.dtype == np.float32
            assert record.quality_map.mean() == pytest.approx(record.scores[metric.dimension], abs=1e-4)

    @pytest.mark.parametrize("name", ["nr-resnet18", "nr-lite"])
    def test_dense_ones_are_what_quality_map_draws(self, write_images: Write, name: str) -> None:
        metric = untrained("nr-resnet18") if name == "nr-resnet18" else aigciqa.create_metric(name)
        (image,) = write_images("gen", "a.png", size=(150, 200))
        record = next(aigciqa.score_files([image], metric=metric, maps="dense"))
        assert record.quality_map == pytest.approx(metric.quality_map(image)[0].numpy(), abs=1e-4)
        coarse = next(aigciqa.score_files([image], metric=metric, maps="coarse")).quality_map
        assert coarse is not None
        assert (coarse.size < record.quality_map.size) == (name == "nr-lite")

    def test_only_where_they_are_asked_for_and_there_is_a_score(self, mixed: list[str]) -> None:
        metric = untrained("nr-resnet18")
        assert all(record.quality_map is None for record in aigciqa.score_files(mixed, metric=metric))
        for record in aigciqa.score_files(mixed, metric=metric, maps="coarse"):
            assert (record.quality_map is None) == (record.error is not None)
        with pytest.raises(ValueError, match="maps is None, 'coarse' or 'dense'; got True"):
            aigciqa.score_files(mixed, metric=metric, maps=True)  # type: ignore[arg-type]


class TestDecoders:
    def test_draft_decodes_large_jpegs_smaller(self, tmp_path: Path, watch: Watch) -> None:
        metric = untrained("nr-resnet18")
        paths = [str(tmp_path / name) for name in ("large.jpg", "small.jpg", "large.png")]
        for path, size in zip(paths, (550, 300, 550), strict=True):
            Image.fromarray(draw(size, size + 40)).save(path)
        sizes: list[tuple[int, int]] = []
        watch(Preprocessor, "image", lambda _, image: sizes.append(image.size))
        exact, draft = (
            scores_of(aigciqa.score_files(paths, metric=metric, decoder=decoder, workers=0))
            for decoder in ("pillow", "draft")
        )
        assert sizes == [(590, 550), (340, 300), (590, 550), (295, 275), (340, 300), (590, 550)]
        assert draft[0] == pytest.approx(exact[0], abs=0.1)
        assert draft[0] != exact[0]
        assert draft[1:] == exact[1:]

    def test_draft_leaves_images_that_are_seen_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "large.jpg"
        Image.fromarray(draw(700, 700)).save(path)
        native = aigciqa.create_metric("nr-lite", weights="native")
        exact, draft = (
            scores_of(aigciqa.score_files([path], metric=native, decoder=decoder)) for decoder in ("pillow", "draft")
        )
        assert draft == exact

    def test_nvjpeg_takes_plain_jpegs_and_leaves_the_rest_to_pillow(self, tmp_path: Path, watch: Watch) -> None:
        """torchvision's decoder on the CPU stands in for the one on a GPU: it is the same function."""
        import torchvision.io

        image = Image.fromarray(draw(300, 340))
        turned = Image.Exif()
        turned[0x0112] = 6
        image.save(tmp_path / "plain.jpg", quality=95)
        image.save(tmp_path / "turned.jpg", quality=95, exif=turned)
        image.save(tmp_path / "other.png")
        (tmp_path / "cut.jpg").write_bytes((tmp_path / "plain.jpg").read_bytes()[:-200])
        decoded = watch(torchvision.io, "decode_jpeg")
        spec = aigciqa.metric_info("nr-resnet18").preprocess
        pool = decoding.DecoderPool(0, "nvjpeg", torch.device("cpu"))
        for name in ("plain.jpg", "turned.jpg", "other.png"):
            found = pool.result(pool.submit(str(tmp_path / name), None, (spec,)))
            exact = Preprocessor(spec).image(load_image(tmp_path / name))
            assert (found[spec].int() - exact.int()).abs().float().mean() < 1
        assert len(decoded) == 1
        with pytest.raises(aigciqa.ImageError, match="truncated"):
            pool.result(pool.submit(str(tmp_path / "cut.jpg"), None, (spec,)))
        header = b"\xff\xc0\x00\x11\x08"  # of a frame; height and width follow
        bomb = (
            (tmp_path / "plain.jpg").read_bytes().replace(header + struct.pack(">HH", 300, 340), header + b"\xea" * 4)
        )
        with pytest.raises(aigciqa.ImageError, match="decompression bomb"):
            pool.result(pool.submit("bomb.jpg", bomb, (spec,)))

    def test_nvjpeg_works_in_the_stream_of_its_caller(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A thread's own stream would not be waited for. Stand-ins for streams, and the CPU for the GPU."""
        import torchvision.io

        Image.fromarray(draw(300, 340)).save(tmp_path / "plain.jpg")
        entered: list[object] = []
        decode_jpeg = torchvision.io.decode_jpeg
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: threading.current_thread())
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext(entered.append(stream)))
        monkeypatch.setattr(torchvision.io, "decode_jpeg", lambda data, mode, device: decode_jpeg(data, mode))
        pool = decoding.DecoderPool(1, "nvjpeg", torch.device("cuda"))
        spec = aigciqa.metric_info("nr-resnet18").preprocess
        assert list(pool.result(pool.submit(str(tmp_path / "plain.jpg"), None, (spec,)))) == [spec]
        pool.close()
        assert entered == [threading.current_thread()]

    def test_unusable_ones_are_refused(self) -> None:
        with pytest.raises(ValueError, match="decoder is one of pillow, draft, nvjpeg; got 'opencv'"):
            aigciqa.score_files([], metric="nr-lite", decoder="opencv")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="'nvjpeg' needs metrics on a CUDA device; nr-lite"):
            aigciqa.score_files([], metric="nr-lite", decoder="nvjpeg")


class TestHanging:
    @pytest.fixture
    def hang(self, watch: Watch, decode_seconds: Callable[[float], None]) -> Iterator[threading.Event]:
        """Reading a file called hang.png takes until the event is set; decoding times out after 0.3 seconds."""
        released = threading.Event()
        watch(decoding, "read_content", lambda path, *_: path.endswith("hang.png") and released.wait())
        decode_seconds(0.3)
        yield released
        released.set()

    def test_an_image_that_takes_too_long_is_an_error_and_the_rest_is_scored(
        self, write_images: Write, hang: threading.Event
    ) -> None:
        images = write_images("gen", "a.png", "b.png", "hang.png", "z.png")
        records = list(aigciqa.score_files(images, metric=untrained("nr-resnet18"), workers=1, batch_size=2))
        assert [record.error for record in records] == [
            None, None, f"{images[2]}: decoding timed out after 0.3 seconds", None,
        ]  # fmt: skip
        assert not hang.is_set()

    @pytest.mark.parametrize("workers", [1, 2])
    def test_so_is_a_reference_even_if_no_thread_is_left(
        self, write_images: Write, hang: threading.Event, workers: int
    ) -> None:
        images, (prompt,) = write_images("gen", "a.png", "b.png", "c.png"), write_images("prompts", "ok.png")
        references = [f"{index}hang.png" for index in range(workers)] + [prompt] * (3 - workers)
        records = list(aigciqa.score_files(images, metric="fr-lite", references=references, workers=workers))
        assert [record.error for record in records] == [
            f"reference {name}: decoding timed out after 0.3 seconds" if "hang" in name else None for name in references
        ]
        assert not hang.is_set()

    def test_one_thread_takes_the_place_of_one_that_hangs(self, hang: threading.Event) -> None:
        pool = decoding.DecoderPool(1, "pillow", torch.device("cpu"))
        hung = pool.submit("hang.png", None, ())
        with ThreadPoolExecutor(8) as waiting:
            errors = [each.exception() for each in [waiting.submit(pool.result, hung) for _ in range(8)]]
        assert {str(error) for error in errors} == {"hang.png: decoding timed out after 0.3 seconds"}
        assert len(pool.threads) == 2
        pool.close()
        assert [thread.is_alive() for thread in pool.threads] == [True, False]
        assert not hang.is_set()

    def test_what_is_queued_when_a_run_ends_is_not_read(self, write_images: Write, watch: Watch) -> None:
        (image,) = write_images("gen", "a.png")
        first, go_on = threading.Event(), threading.Event()
        reads = watch(decoding, "read_content", lambda *_: (first.set(), go_on.wait()))
        pool = decoding.DecoderPool(1, "pillow", torch.device("cpu"))
        queued = [pool.submit(image, None, ()) for _ in range(20)]
        first.wait()
        threading.Timer(0.2, go_on.set).start()
        pool.close()
        assert files(reads) == [image]
        for each in queued:
            with pytest.raises(aigciqa.ImageError, match=r"a.png: the run was stopped"):
                pool.result(each)
        assert not any(thread.is_alive() for thread in pool.threads)

    def test_a_run_that_is_stopped_leaves_no_thread_waiting(self, write_images: Write, hang: threading.Event) -> None:
        images = write_images("gen", "a.png", "hang.png", "z.png")
        before = set(threading.enumerate())
        torch.set_num_threads(2)
        try:
            records = aigciqa.score_files(images, metric=untrained("nr-resnet18"), batch_size=2)
            assert next(records).error is None
            records.close()
            left = set(threading.enumerate()) - before
            assert [(thread.name, thread.daemon) for thread in left] == [("aigciqa-decode", True)]
        finally:
            torch.set_num_threads(1)
        assert not hang.is_set()
