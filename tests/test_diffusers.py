"""Pictures of a pipeline, scored: of a function, and of a tiny Stable Diffusion with random weights."""

from __future__ import annotations

import csv
import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import aigciqa
from aigciqa.errors import InputError, OutputExistsError
from aigciqa.integrations.checkpoint_scores import CheckpointScores
from aigciqa.integrations.diffusers import validation_scores
from aigciqa.stats.means import mean_interval
from aigciqa.tables.scores import read_table
from tests.conftest import draw
from tests.test_compare import run
from tests.tiny_pipeline import tiny_pipeline

PROMPTS = ["a cat", "a dog", "a boat"]


def drawn(
    prompt: list[str], generator: list[torch.Generator], output_type: str, noise: float = 0, **_: Any
) -> list[Image.Image]:
    """A picture for each prompt and seed; noise makes it worse."""
    assert output_type == "pil"
    pictures = []
    for text, each in zip(prompt, generator, strict=True):
        pixels = draw(64, 64, seed=sum(text.encode())) + noise * torch.randn(64, 64, 3, generator=each).numpy()
        pictures.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    return pictures


def scores_of(found: Any) -> list[float]:
    return [record.scores["quality"] for record in found.records]


class TestScores:
    def test_each_picture_is_the_metrics_score_of_its_prompt_and_seed(self) -> None:
        metric = aigciqa.create_metric("nr-lite")
        found = validation_scores(drawn, PROMPTS, [3, 5], metric, keep_pictures=None, noise=20)
        assert [(each.extra["prompt"], each.extra["seed"]) for each in found.records] == [
            (prompt, seed) for seed in ("3", "5") for prompt in PROMPTS
        ]
        alone = drawn(["a boat"], [torch.Generator().manual_seed(5)], "pil", noise=20)
        assert scores_of(found)[5] == pytest.approx(float(metric(alone)))
        assert scores_of(found) == pytest.approx(metric(list(found.pictures)).tolist())

    def test_an_argument_that_json_has_not_is_left_out_of_what_made_the_table(self, tmp_path: Path) -> None:
        validation_scores(drawn, PROMPTS[:1], [3], "nr-lite", to=tmp_path, sigma_max=float("inf"))
        assert "sigma_max" not in (tmp_path / "scores.csv.meta.json").read_text()

    def test_a_folder_is_no_url(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match="but a URL"):
            validation_scores(drawn, PROMPTS[:1], [3], "nr-lite", to="s3://bucket/samples")
        with pytest.raises(InputError, match="but a URL"):
            CheckpointScores(PROMPTS[:1], [3], "nr-lite", to="s3://bucket/samples")
        assert os.listdir() == []

    def test_prompts_and_seeds_may_be_arrays(self) -> None:
        found = validation_scores(drawn, np.array(PROMPTS), np.arange(2), "nr-lite")  # type: ignore[arg-type]
        assert [each.extra["seed"] for each in found.records] == ["0"] * 3 + ["1"] * 3

    def test_the_mean_resamples_prompts_with_all_their_seeds(self) -> None:
        found = validation_scores(drawn, PROMPTS, [3, 5], "nr-lite", noise=20)
        expected = mean_interval(scores_of(found), PROMPTS * 2)
        assert found.mean == expected
        assert found.mean.value == pytest.approx(np.mean(scores_of(found)))
        assert str(found) == f"nr-lite · quality: {expected}, 6 pictures of 3 prompts"
        with pytest.raises(InputError, match="no scores of 'qualty'; there are those of quality"):
            found.mean_of("qualty")
        averaged = mean_interval(np.mean(np.reshape(scores_of(found), (2, 3)), axis=0))
        assert (found.mean.low, found.mean.high) == pytest.approx((averaged.low, averaged.high))

    def test_the_batch_size_does_not_matter_and_pictures_are_let_go(self) -> None:
        sizes = []

        def watched(prompt: list[str], **arguments: Any) -> list[Image.Image]:
            sizes.append(len(prompt))
            return drawn(prompt, **arguments)

        one = validation_scores(drawn, PROMPTS, [3, 5], "nr-lite", noise=20)
        other = validation_scores(watched, PROMPTS, [3, 5], "nr-lite", noise=20, batch_size=4, keep_pictures=2)
        assert sizes == [4, 2]
        assert scores_of(other) == pytest.approx(scores_of(one), abs=1e-5)
        assert (len(one.pictures), len(other.pictures)) == (0, 2)

    def test_references_are_the_prompts(self, tmp_path: Path) -> None:
        files = [tmp_path / f"{number}.png" for number in range(3)]
        for number, file in enumerate(files):
            Image.fromarray(draw(64, 64, seed=number)).save(file)
        found = validation_scores(drawn, PROMPTS, [3, 5], "fr-lite", references=files, batch_size=2, keep_pictures=None)
        metric = aigciqa.create_metric("fr-lite")
        assert scores_of(found) == pytest.approx(metric(list(found.pictures), files * 2).tolist(), abs=1e-5)
        assert [each.reference for each in found.records] == [str(file) for file in files] * 2

    def test_what_the_safety_checker_made_black_is_left_out(self, tmp_path: Path) -> None:
        def checked(prompt: list[str], **arguments: Any) -> Any:
            black = [text == "a dog" for text in prompt]
            return SimpleNamespace(images=drawn(prompt, **arguments), nsfw_content_detected=black)

        found = validation_scores(checked, PROMPTS, [3], "nr-lite", batch_size=2, to=tmp_path)
        assert found.left_out == 1
        assert "safety checker" in str(found.records[1].error)
        assert found.mean.value == pytest.approx(np.mean([found.records[place].scores["quality"] for place in (0, 2)]))
        assert "1 left out" in str(found)
        assert sorted(path.name for path in tmp_path.glob("*.png")) == ["0000-seed-3.png", "0002-seed-3.png"]
        assert [row["error"] is None for row in read_table(tmp_path / "scores.csv").rows] == [True, False, True]

        def black(prompt: list[str], **arguments: Any) -> Any:
            return SimpleNamespace(images=drawn(prompt, **arguments), nsfw_content_detected=np.ones(1, bool))

        validation_scores(black, PROMPTS, [3], "nr-lite", to=tmp_path, overwrite=True)
        assert list(tmp_path.glob("*.png")) == []  # an earlier run's pictures are none of this one's


class TestSurroundings:
    def test_random_numbers_gradients_and_modes_are_as_before(self) -> None:
        class Pipeline(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.frozen, self.trained = torch.nn.Dropout().eval(), torch.nn.Dropout()
                self.components = {"trained": self.trained, "tokenizer": None}

            def forward(self, **arguments: Any) -> list[Image.Image]:
                assert [torch.is_grad_enabled(), self.training, self.trained.training] == [False] * 3
                torch.rand(1)
                np.random.rand()
                random.random()
                return drawn(**arguments)

        pipeline = Pipeline()
        states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        validation_scores(pipeline, PROMPTS, [3], "nr-lite")
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.array_equal(np.random.get_state()[1], states[1])
        assert random.getstate() == states[2]
        assert (pipeline.training, pipeline.trained.training, pipeline.frozen.training) == (True, True, False)
        assert torch.is_grad_enabled()

    def test_they_are_so_after_an_error(self) -> None:
        model = torch.nn.Dropout()

        def torn(**_: Any) -> Any:
            torch.rand(1)
            raise ZeroDivisionError

        torn.components = {"model": model}  # type: ignore[attr-defined]
        state = torch.get_rng_state()
        with pytest.raises(ZeroDivisionError):
            validation_scores(torn, PROMPTS, [3], "nr-lite")
        assert torch.equal(torch.get_rng_state(), state)
        assert model.training


class TestFolder:
    def test_pictures_know_what_made_them(self, tmp_path: Path) -> None:
        found = validation_scores(
            lambda **given: drawn(given["prompt"], given["generator"], given["output_type"]),
            ["a cat", "ein Schloß, 城"],
            [3],
            "nr-lite",
            to=tmp_path / "samples",
            negative_prompt="blurry",
            num_inference_steps=20,
            guidance_scale=7.5,
        )
        with Image.open(tmp_path / "samples" / "0001-seed-3.png") as picture:
            assert picture.text["parameters"] == (  # type: ignore[attr-defined]
                "ein Schloß, 城\nNegative prompt: blurry\n"
                "Steps: 20, CFG scale: 7.5, Seed: 3, Size: 64x64, Version: aigciqa"
            )
            score = float(aigciqa.create_metric("nr-lite")(picture))
        assert score == pytest.approx(found.records[1].scores["quality"])
        read = aigciqa.read_generation(tmp_path / "samples" / "0001-seed-3.png")
        assert (read.prompt, read.negative_prompt, read.seed) == ("ein Schloß, 城", "blurry", 3)
        assert (read.steps, read.guidance) == (20, 7.5)
        with open(tmp_path / "samples" / "scores.csv", newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        assert [(row["image"], row["prompt"], row["seed"]) for row in rows] == [
            ("0000-seed-3.png", "a cat", "3"),
            ("0001-seed-3.png", "ein Schloß, 城", "3"),
        ]
        assert float(rows[1]["quality"]) == pytest.approx(score, abs=1e-5)

    def test_the_defaults_of_the_pipeline_are_known_and_without_steps_the_seed_is_read(self, tmp_path: Path) -> None:
        def with_defaults(prompt: Any, generator: Any, output_type: str, num_inference_steps: int = 50) -> Any:
            return drawn(prompt, generator, output_type)

        for number, (pipeline, steps) in enumerate(((with_defaults, 50), (drawn, None))):
            validation_scores(pipeline, PROMPTS, [3], "nr-lite", to=tmp_path / str(number))
            read = aigciqa.read_generation(tmp_path / str(number) / "0001-seed-3.png")
            assert (read.prompt, read.seed, read.steps, read.generator) == ("a dog", 3, steps, "aigciqa")
        with Image.open(tmp_path / "1" / "0001-seed-3.png") as picture:
            assert picture.text["parameters"] == "a dog\nSeed: 3, Size: 64x64, Version: aigciqa"  # type: ignore[attr-defined]

    def test_prompts_come_back_from_the_table_and_the_pictures(self, tmp_path: Path) -> None:
        """Blanks around them aside: a list of lines has their ends."""
        prompts = [
            "=1+1\n",
            " a cat,\n\t'asleep'",
            "a\nNegative: b",
            "Seed: 1, Size: 2x2",
            "Steps: one, two",
            "'\U0001f600",
        ]
        found = validation_scores(drawn, prompts, [3], "nr-lite", to=tmp_path)
        expected = ["=1+1", *prompts[1:]]
        expected[1] = expected[1].strip()
        assert [record.extra["prompt"] for record in found.records] == expected
        assert [row["prompt"] for row in read_table(tmp_path / "scores.csv").rows] == expected
        pictures = sorted(tmp_path.glob("*.png"))
        assert [aigciqa.read_generation(picture).prompt for picture in pictures] == expected

    def test_an_earlier_runs_pictures_go_and_nothing_else(self, tmp_path: Path) -> None:
        validation_scores(drawn, PROMPTS, [3, 5], "nr-lite", to=tmp_path)
        mine = ["0009-seed-3.png", "0000-seed-3.txt", "mine.png"]  # the first is not in the table
        for name in mine:
            (tmp_path / name).touch()
        table = tmp_path / "scores.csv"
        lines = table.read_text().splitlines(keepends=True)
        lines[1:1] = ["mine.png,,,nr-lite,1.0,,mine,3\n", "../x/0000-seed-3.png,,,nr-lite,1.0,,a,3\n"]
        table.write_text("".join(lines) + '"torn')  # as by a run that was killed
        validation_scores(drawn, PROMPTS[:1], [5], "nr-lite", to=tmp_path, overwrite=True)
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {*mine, "0000-seed-5.png", "scores.csv", "scores.csv.meta.json"}

    def test_no_table_can_have_a_picture_outside_of_the_folder_removed(self, tmp_path: Path) -> None:
        folder = tmp_path / "samples"
        (folder / "0000-seed-..").mkdir(parents=True)
        (tmp_path / "mine.png").touch()
        (folder / "scores.csv").write_text("image,seed\n0000-seed-../../../mine.png,../../../mine\n")
        validation_scores(drawn, PROMPTS[:1], [5], "nr-lite", to=folder, overwrite=True)
        assert (tmp_path / "mine.png").exists()

    def test_the_folder_may_be_in_the_home_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))  # Windows'
        validation_scores(drawn, PROMPTS[:1], [5], "nr-lite", to="~/one")
        CheckpointScores(PROMPTS[:1], [5], "nr-lite", to="~/more").score(drawn, 7)
        assert {str(each.relative_to(tmp_path).parent) for each in tmp_path.rglob("scores.csv")} == {
            "one", os.path.join("more", "step-7")
        }  # fmt: skip

    def test_an_earlier_table_is_kept_unless_it_is_to_be_replaced(self, tmp_path: Path) -> None:
        validation_scores(drawn, PROMPTS, [3], "nr-lite", to=tmp_path)
        with pytest.raises(OutputExistsError, match="overwrite=True"):
            validation_scores(drawn, PROMPTS, [3], "nr-lite", to=tmp_path)
        validation_scores(drawn, PROMPTS[:2], [3], "nr-lite", to=tmp_path, overwrite=True)
        assert len(list(read_table(tmp_path / "scores.csv").rows)) == 2

    def test_compare_matches_the_folders_and_the_tables(self, tmp_path: Path) -> None:
        prompts = [f"a {thing}" for thing in ("cat", "dog", "boat", "house", "tree", "road", "hill", "lake")]
        for step, noise in ((500, 60), (1000, 20), (1500, 40)):
            validation_scores(drawn, prompts, [3, 5], "nr-lite", to=tmp_path / f"step-{step}", noise=noise)
        for names in (["scores.csv"], []):
            done = run(*(str(tmp_path.joinpath(f"step-{step}", *names)) for step in (1500, 500, 1000)),
                       "--by", "checkpoint", "-m", "nr-lite", "--quiet")  # fmt: skip
            assert done.exit_code == 0, done.output
            assert "step-1000 is best of 3 checkpoints" in done.output
            assert "matched by their prompt and seed: 8 prompts, 16 pairs in common" in done.output

    def test_compare_divides_a_folder_by_what_made_its_pictures(self, tmp_path: Path) -> None:
        for steps, noise in ((20, 60), (50, 20)):
            validation_scores(
                drawn, PROMPTS, [3], "nr-lite", to=tmp_path / f"with-{steps}", noise=noise, num_inference_steps=steps
            )
        done = run(str(tmp_path), "--by", "steps", "-m", "nr-lite", "--quiet")
        assert done.exit_code == 0, done.output
        assert "matched by their prompt and seed: 3 prompts, 3 pairs in common" in done.output
        assert {line.split()[0] for line in done.output.splitlines() if line[:2] in ("20", "50")} == {"20", "50"}
        done = run(str(tmp_path), "--by", "step", "-m", "nr-lite")
        assert done.exit_code == 2
        assert "did you mean 'steps'?" in done.output


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"prompts": "a cat"}, "`prompts` is a list of texts"),
        ({"prompts": ["a", "a"]}, "`prompts` has 'a' twice"),
        ({"seeds": []}, "`seeds` is a list of whole numbers"),
        ({"seeds": [1.5]}, "`seeds` is a list of whole numbers"),
        ({"seeds": [1, 1]}, "`seeds` has 1 twice"),
        ({"seeds": [True]}, "`seeds` is a list of whole numbers"),
        ({"seeds": [-1]}, "`seeds` are from 0 to 18446744073709551615; got -1 to -1"),
        ({"seeds": [2**64]}, "`seeds` are from 0 to"),
        ({"prompts": ["a cat", " "]}, "`prompts` has an empty one"),
        ({"prompts": ["a cat", "a cat\n"]}, "`prompts` has 'a cat' twice"),
        ({"prompts": ["a\0cat"]}, r"`prompts` has 'a\\x00cat', which its picture could not tell as it is"),
        ({"prompts": ["a\u2028cat"]}, "leave out control characters"),
        ({"prompts": ["Negative prompt: a dog"]}, "lines that begin with 'Negative prompt:'"),
        ({"prompts": ["a cat\nSteps: 2, Seed: 1"]}, "or 'Steps:'"),
        ({"prompts": ["a" * 32_768]}, "at most 32767 characters"),
        ({"batch_size": 0}, "`batch_size` is at least 1"),
        ({"generator": None}, "`generator`: validation_scores says that"),
        ({"metric": "nr-lit"}, "nr-lite"),
        ({"metric": "fr-lite"}, "pass `references`"),
        ({"references": ["a.png"]}, "takes no references"),
        ({"metric": "fr-lite", "references": ["a.png"]}, "3 prompts but 1 references"),
        ({"pipeline": lambda **_: []}, "0 pictures of 1 prompts"),
        ({"pipeline": lambda **_: None}, "the pipeline made None; expected a list of PIL images"),
        ({"pipeline": lambda **_: torch.rand(1, 3, 64, 64)}, "expected a list of PIL images"),
    ],
)
def test_what_can_not_be(change: dict[str, Any], text: str) -> None:
    given = {"pipeline": drawn, "prompts": PROMPTS, "seeds": [3], "metric": "nr-lite", **change}
    with pytest.raises(InputError, match=text):
        validation_scores(**given)


@pytest.mark.slow
class TestStableDiffusion:
    def test_a_pipeline_of_diffusers(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        pipeline = tiny_pipeline(tmp_path)
        pipeline.unet.train()
        capfd.readouterr()
        arguments: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0}
        found = validation_scores(
            pipeline, PROMPTS, [3, 5], "nr-lite", batch_size=4, to=tmp_path / "samples", keep_pictures=None, **arguments
        )
        assert "it/s" not in capfd.readouterr().err
        assert pipeline.unet.training
        assert not getattr(pipeline, "_progress_bar_config", {})
        assert {picture.size for picture in found.pictures} == {(32, 32)}
        again = validation_scores(pipeline, PROMPTS[::-1], [5], "nr-lite", **arguments)
        assert scores_of(again) == pytest.approx(scores_of(found)[:2:-1], abs=1e-3)
        expected = pipeline("a boat", generator=torch.Generator().manual_seed(5), **arguments).images[0]
        difference = np.abs(np.asarray(found.pictures[5], np.int16) - np.asarray(expected, np.int16))
        assert difference.max() <= 1  # one picture in a batch of two or alone: rounding
        with Image.open(tmp_path / "samples" / "0002-seed-5.png") as picture:
            assert "Steps: 2, Sampler: DDIM, CFG scale: 2.0, Seed: 5" in picture.text["parameters"]  # type: ignore[attr-defined]

    def test_another_unet_makes_other_pictures(self, tmp_path: Path) -> None:
        one, other = (
            validation_scores(tiny_pipeline(tmp_path, seed), PROMPTS, [3], "nr-lite", num_inference_steps=2)
            for seed in (0, 1)
        )
        assert scores_of(one) != scores_of(other)
