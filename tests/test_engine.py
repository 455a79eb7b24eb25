"""`score_files`: order, batches, workers, references, errors, memory."""

from __future__ import annotations

import copy
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import aigciqa
from aigciqa.scoring import engine
from aigciqa.scoring.encoder import Encoder
from tests.conftest import untrained

Write = Callable[..., list[str]]


def scores_of(records: Iterator[aigciqa.Record]) -> list[float]:
    return [next(iter(record.scores.values())) for record in records]


@pytest.fixture
def mixed(pictures: Write) -> list[str]:
    """Twenty pictures of several shapes, and three bad ones among them."""
    paths = []
    for index in range(20):
        paths += pictures("mixed", f"{index:02}.png", size=[(60, 80), (80, 60), (64, 64)][index % 3])
    for index in (3, 9, 10):
        Path(paths[index]).write_bytes(b"not a picture")
    return paths


@pytest.mark.parametrize("name", ["nr-resnet18", "nr-lite"])
def test_scores_depend_neither_on_batch_size_nor_on_workers(name: str, mixed: list[str]) -> None:
    metric = untrained(name)
    expected = [None if index in (3, 9, 10) else metric(path).item() for index, path in enumerate(mixed)]
    for batch_size, workers in itertools.product((1, 3, 16), (0, 1, 4)):
        records = list(aigciqa.score_files(mixed, metric=metric, batch_size=batch_size, workers=workers))
        assert [record.image for record in records] == mixed
        for record, value in zip(records, expected, strict=True):
            assert (record.error is not None) == (value is None)
            assert record.metric == name
            if value is None:
                assert record.scores == {}
                assert record.error is not None
                assert record.error.startswith(f"{record.image}: not a picture")
            else:
                assert tuple(record.scores) == metric.dimensions
                assert record.scores["quality"] == pytest.approx(value, abs=1e-5)


def test_full_reference_scores_are_those_of_the_metric(pictures: Write) -> None:
    metric = untrained("fr-resnet18")
    images, prompts = pictures("gen", "a.png", "b.png", "c.png"), pictures("prompts", "a.png", "x.png")
    references = [prompts[0], prompts[1], prompts[0]]
    expected = metric(images, references).tolist()
    assert scores_of(aigciqa.score_files(images, metric=metric, references=references)) == pytest.approx(
        expected, abs=1e-5
    )
    one = aigciqa.score_files(iter(images), metric=metric, references=Path(prompts[1]), batch_size=2)
    assert scores_of(one) == pytest.approx(metric(images, [prompts[1]] * 3).tolist(), abs=1e-5)


def test_each_reference_is_decoded_and_encoded_once(pictures: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = untrained("fr-resnet18")
    images = pictures("gen", *(f"{index}.png" for index in range(9)))
    prompts = pictures("prompts", "0.png", "1.png")
    decoded: list[str] = []
    encoded: list[int] = []
    decode, encode = engine.load_image, Encoder.encode

    def count_decoded(path: str) -> object:
        decoded.append(path)
        return decode(path)

    def count_encoded(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return encode(encoder, pixels)

    monkeypatch.setattr(engine, "load_image", count_decoded)
    monkeypatch.setattr(Encoder, "encode", count_encoded)
    list(aigciqa.score_files(images, metric=metric, references=[prompts[i % 2] for i in range(9)], batch_size=2))
    assert sorted(decoded) == sorted(images + prompts)
    assert sum(encoded) == 11


def test_metrics_of_one_trunk_share_its_features(pictures: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    nr = untrained("nr-resnet18")
    fr, other = copy.deepcopy(untrained("fr-resnet18")), copy.deepcopy(nr)
    fr.backbone.load_state_dict(nr.backbone.state_dict())
    with torch.no_grad():
        next(other.backbone.parameters()).add_(0.1)
    images, prompts = pictures("gen", "a.png", "b.png", "c.png"), pictures("prompts", "a.png")
    encoded: list[tuple[int, int]] = []
    encode = Encoder.encode

    def count_encoded(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        encoded.append((id(encoder), len(pixels)))
        return encode(encoder, pixels)

    monkeypatch.setattr(Encoder, "encode", count_encoded)
    records = list(aigciqa.score_files(images, metric=[nr, fr, other], references=prompts[0]))
    assert len({encoder for encoder, _ in encoded}) == 2
    assert sum(count for _, count in encoded) == 3 + 1 + 3
    found = [record.scores["quality"] for record in records]
    alone = torch.stack([nr(images), fr(images, [prompts[0]] * 3), other(images)], dim=1)
    assert found == pytest.approx(alone.flatten().tolist(), abs=1e-5)


def test_a_reference_that_changes_is_read_again(pictures: Write) -> None:
    metric = untrained("fr-resnet18")
    images, (prompt, other) = pictures("gen", "a.png", "b.png"), pictures("prompts", "a.png", "b.png")

    def items() -> Iterator[aigciqa.Item]:
        yield aigciqa.Item(images[0], prompt)
        expected.append(metric(images[0], prompt).item())
        shutil.copy(other, prompt)
        yield aigciqa.Item(images[1], prompt)
        expected.append(metric(images[1], other).item())

    expected: list[float] = []
    found = scores_of(aigciqa.score_files(items(), metric=metric, batch_size=1))
    assert found == pytest.approx(expected, abs=1e-5)


def test_forgotten_references_are_read_again(pictures: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_REFERENCES", 1)
    metric = untrained("fr-resnet18")
    images, prompts = pictures("gen", "a.png", "b.png", "c.png"), pictures("prompts", "a.png", "b.png")
    references = [prompts[0], prompts[1], prompts[0]]
    found = scores_of(aigciqa.score_files(images, metric=metric, references=references, batch_size=1))
    assert found == pytest.approx(metric(images, references).tolist(), abs=1e-5)


def test_a_metric_made_as_a_loss_scores_files_as_well(pictures: Write) -> None:
    images = pictures("gen", "a.png")
    records = aigciqa.score_files(images, metric=untrained("nr-resnet18", as_loss=True))
    assert scores_of(records) == pytest.approx(untrained("nr-resnet18")(images).tolist(), abs=1e-5)


def test_several_metrics_share_the_decoding(pictures: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = [untrained(name) for name in ("nr-resnet18", "nr-lite", "fr-resnet18", "fr-lite")]
    images, prompts = pictures("gen", "a.png", "b.png"), pictures("prompts", "a.png")
    decoded: list[str] = []
    decode = engine.load_image
    monkeypatch.setattr(engine, "load_image", lambda path: decoded.append(path) or decode(path))
    records = list(aigciqa.score_files(images, metric=metrics, references=prompts[0]))
    assert sorted(decoded) == sorted(images + prompts)
    assert [(record.image, record.metric) for record in records] == [
        (image, metric.name) for image in images for metric in metrics
    ]
    for record, metric in zip(records, metrics * 2, strict=True):
        alone = metric(record.image, *([prompts[0]] if metric.requires_reference else []))
        assert record.scores["quality"] == pytest.approx(alone.item(), abs=1e-5)


def test_a_missing_or_broken_reference_is_the_error_of_its_image_alone(pictures: Write, tmp_path: Path) -> None:
    images, prompts = pictures("gen", "a.png", "b.png", "c.png"), pictures("prompts", "a.png")
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
    assert records[1].error.startswith(f"reference {broken}: not a picture")
    assert records[3].error == f"{images[1]}: no reference given, and fr-resnet18 needs one"
    assert (records[5].reference, records[5].group) == (prompts[0], "g")


def test_images_may_come_from_a_generator_without_end(pictures: Write) -> None:
    image = pictures("gen", "a.png")[0]
    records = aigciqa.score_files(itertools.repeat(image), metric=untrained("nr-resnet18"), batch_size=2)
    assert len({next(records).image for _ in range(5)}) == 1
    records.close()


def test_strict_raises_at_the_first_bad_file(mixed: list[str]) -> None:
    records = aigciqa.score_files(mixed, metric=untrained("nr-resnet18"), strict=True, batch_size=4)
    assert [next(records).image for _ in range(3)] == mixed[:3]
    with pytest.raises(aigciqa.ImageError, match=r"03.png: not a picture"):
        next(records)


def test_the_batch_shrinks_when_memory_runs_out(pictures: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = untrained("nr-resnet18")
    images = pictures("gen", *(f"{index}.png" for index in range(11)))
    expected = metric(images).tolist()
    tried: list[int] = []
    encode = Encoder.encode

    def small_memory(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        tried.append(len(pixels))
        if len(pixels) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return encode(encoder, pixels)

    monkeypatch.setattr(Encoder, "encode", small_memory)
    found = scores_of(aigciqa.score_files(images, metric=metric, batch_size=8))
    assert found == pytest.approx(expected, abs=1e-5)
    assert tried[:3] == [8, 4, 2]
    assert max(tried[3:]) == 2


def test_running_out_of_memory_on_one_picture_is_raised(pictures: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = untrained("nr-resnet18")

    def no_memory(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Encoder, "encode", no_memory)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(aigciqa.score_files(pictures("gen", "a.png", "b.png"), metric=metric))


def test_a_score_that_is_no_number_is_an_error(pictures: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = untrained("nr-resnet18")
    monkeypatch.setattr(metric, "regress", lambda features, _: torch.tensor([[1.0, 1, 1, 1], [1, float("nan"), 1, 1]]))
    records = list(aigciqa.score_files(pictures("gen", "a.png", "b.png"), metric=metric))
    assert records[0].error is None
    assert records[1].error is not None
    assert "not a finite number" in records[1].error
    assert records[1].scores == {}


def test_names_create_metrics(pictures: Write) -> None:
    images = pictures("gen", "a.png")
    record = next(aigciqa.score_files(images, metric="nr-lite"))
    assert record.scores["quality"] == pytest.approx(aigciqa.create_metric("nr-lite")(images).item(), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"images": "a.png"}, TypeError, r"for one file pass \['a.png'\]"),
        ({"metric": "no-such"}, ValueError, "unknown metric 'no-such'"),
        ({"metric": []}, ValueError, "no metric given"),
        ({"batch_size": 0}, ValueError, "batch_size is 1 or more; got 0"),
        ({"workers": -1}, ValueError, "workers is 0"),
        ({"dtype": "float8"}, ValueError, "dtype is one of"),
        ({"references": "b.png"}, ValueError, "nr-lite takes none"),
        ({"metric": "fr-lite"}, ValueError, "fr-lite compares with a reference"),
        ({"metric": "fr-lite", "references": ["b.png"]}, ValueError, "2 images but 1 references"),
        ({"metric": "fr-lite", "references": ["b.png"] * 3}, ValueError, "2 images but 3 references"),
        ({"metric": "fr-lite", "references": ["b.png"] * 3, "images": iter("ab")}, ValueError, "2 images but 3 ref"),
        (
            {"metric": "fr-lite", "references": ["b.png"], "images": iter("ab")},
            ValueError,
            "1 references for at least 2",
        ),
    ],
)
def test_unusable_arguments_are_refused(arguments: dict[str, object], error: type[Exception], text: str) -> None:
    images = arguments.pop("images", ["a.png", "b.png"])
    with pytest.raises(error, match=text):
        list(aigciqa.score_files(images, **{"metric": "nr-lite", **arguments}))  # type: ignore[arg-type]
