"""Generation parameters as columns, groups and prompts: of `score`, `compare` and reports."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, PngImagePlugin

import aigciqa
from aigciqa.cli import compare, score
from aigciqa.cli.generation import ungrouped_note
from aigciqa.compare.groups import Group, match
from aigciqa.errors import InputError
from aigciqa.integrations.ray import Setup
from aigciqa.records import Item
from aigciqa.report import write_report
from aigciqa.report.prompts import TEXT_LIMIT
from aigciqa.stats.groups import Difference, Scores, differences, non_inferiority
from aigciqa.tables.columns import columns_of
from aigciqa.tables.formats import read_rows
from tests.conftest import draw, untrained
from tests.test_report import data_of

COLUMNS = columns_of(["quality"], ["prompt", "seed", "model"])


def picture(path: Path, prompt: str | None = None, seed: int = 1, model: str = "sdxl", look: int = 0) -> str:
    """Write a PNG as AUTOMATIC1111 does; without a prompt, one that says nothing."""
    info = PngImagePlugin.PngInfo()
    if prompt is not None:
        info.add_text("parameters", f"{prompt}\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: {seed}, Model: {model}")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw(40, 48, look)).save(path, pnginfo=info)
    return str(path)


def run(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(each) for each in arguments])


def scored(*arguments: object, status: int = 0) -> str:
    done = run(score.main, "-m", "nr-lite", *arguments)
    assert done.exit_code == status, done.output
    return done.stderr


def cells(table: Path, *names: str) -> list[tuple[Any, ...]]:
    """The cells of some columns, None where they are empty."""
    return [tuple(row[name] or None for name in names) for row in read_rows(table) if not isinstance(row, str)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    picture(Path("out/1.png"), "a fox\nin snow", 7, "sdxl")
    picture(Path("out/2.png"), "=a dog", 8, "flux")
    picture(Path("out/3.png"))
    Path("out/4.png").write_bytes(Path("out/1.png").read_bytes()[:-60])  # its texts are whole, its pixels are not
    return Path("out")


class TestColumns:
    @pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
    def test_fields_follow_the_error_in_the_order_asked(self, folder: Path, suffix: str) -> None:
        table = Path(f"scores.{suffix}")
        scored(folder, "-o", table, "--columns", "seed, prompt,seed", status=1)
        row = next(read_rows(table))
        assert list(row)[-3:] == ["error", "seed", "prompt"]
        expected = [("7", "a fox\nin snow"), ("8", "=a dog"), (None, None), ("7", "a fox\nin snow")]
        assert cells(table, "seed", "prompt") == expected

    def test_all_are_the_fields_in_their_order(self, folder: Path) -> None:
        scored(folder, "-o", "scores.csv", "--columns", "all", status=1)
        row = next(csv.DictReader(io.StringIO(Path("scores.csv").read_text())))
        assert {name: row[name] for name in list(row)[6:]} == {
            "prompt": "a fox\nin snow", "negative_prompt": "", "seed": "7", "steps": "20", "sampler": "Euler",
            "guidance": "7", "model": "sdxl", "loras": "", "generator": "AUTOMATIC1111", "c2pa": "",
        }  # fmt: skip

    def test_an_unknown_field_is_refused_with_the_one_that_was_meant(self, folder: Path) -> None:
        said = " ".join(scored(folder, "--columns", "prompt,sed", status=2).split())
        assert "--columns: there is no generation parameter 'sed'; did you mean 'seed'?" in said
        assert "prompt, negative_prompt, seed, steps, sampler, guidance, model, loras, generator, c2pa" in said

    def test_a_manifests_cell_counts_first_and_is_filled_only_where_asked(self, folder: Path) -> None:
        manifest = Path("list.csv")
        manifest.write_text("image,seed,note\nout/1.png,99,mine\nout/2.png,,\n")
        scored(manifest, "-o", "asked.csv", "--columns", "prompt,seed")
        assert cells(Path("asked.csv"), "seed", "note", "prompt") == [
            ("99", "mine", "a fox\nin snow"), ("8", None, "=a dog")
        ]  # fmt: skip
        scored(manifest, "-o", "plain.csv", "--report", "page.html")  # which shows the seed, and fills no table
        assert cells(Path("plain.csv"), "seed") == [("99",), (None,)]
        assert data_of(Path("page.html"))["seeds"] == ["99", "8"]

    def test_members_of_an_archive(self, folder: Path) -> None:
        with tarfile.open("out.tar", "w") as archive:
            archive.add("out/2.png", "2.png")
        scored("out.tar", "-o", "scores.csv", "--columns", "seed,model")
        assert cells(Path("scores.csv"), "image", "seed", "model") == [("out.tar/2.png", "8", "flux")]

    def test_a_file_beside_the_image(self, folder: Path) -> None:
        Path("out/3.txt").write_text("a cat\nSteps: 5, Sampler: Euler, CFG scale: 7, Seed: 3, Model: xl")
        scored("out/3.png", "-o", "scores.csv", "--columns", "prompt")
        assert cells(Path("scores.csv"), "prompt") == [("a cat",)]

    def test_images_inside_parquet(self, folder: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        image = {"bytes": Path("out/2.png").read_bytes(), "path": "x.png"}
        pyarrow.parquet.write_table(pyarrow.table({"image": [image]}), "images.parquet")
        scored("images.parquet", "-o", "scores.csv", "--columns", "seed", "--group-by", "model")
        assert cells(Path("scores.csv"), "seed", "group") == [("8", "flux")]

    def test_in_python(self, folder: Path) -> None:
        images = [Item("out/1.png", extra={"seed": "5"}), Item("pixels", content=draw(40, 40))]
        one, other = aigciqa.score_files(images, metric="nr-lite", generation=["prompt", "seed"], group_by="model")
        assert one.extra == {"prompt": "a fox\nin snow", "seed": "5"}
        assert one.generation is not None
        assert (one.generation.seed, one.group) == (7, "sdxl")
        assert (other.extra, other.generation, other.group) == ({"prompt": None, "seed": None}, None, None)
        done = aigciqa.score_to_file(images, "scores.csv", metric="nr-lite", generation=["model"], group_by="seed")
        assert cells(done.path, "group", "model") == [("5", "sdxl"), (None, None)]
        with pytest.raises(InputError, match=r"generation is 'all' or a sequence of fields.*; got 'seed'"):
            aigciqa.score_files(images, metric="nr-lite", generation="seed")


class TestResume:
    ARGUMENTS = ("out", "-o", "scores.csv", "--columns", "prompt,seed", "--group-by", "model")

    def interrupted(self) -> str:
        """Score everything, and leave the first two rows of it."""
        scored(*self.ARGUMENTS, status=1)
        whole = Path("scores.csv").read_text()
        Path("scores.csv").write_text(whole[: whole.index("out/3.png")])
        return whole

    def test_the_table_is_that_of_a_whole_run(self, folder: Path) -> None:
        whole = self.interrupted()
        assert "resuming after 2 rows" in scored(*self.ARGUMENTS, "--resume", status=1)
        assert Path("scores.csv").read_text() == whole

    def test_metadata_that_is_gone_since_does_no_harm(self, folder: Path) -> None:
        whole = self.interrupted()
        stamp = os.stat("out/1.png").st_mtime
        picture(Path("out/1.png"))
        os.utime("out/1.png", (stamp, stamp))
        scored(*self.ARGUMENTS, "--resume", status=1)
        assert Path("scores.csv").read_text() == whole

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (("--columns", "prompt", "--group-by", "model"), "other"),
            (("--columns", "prompt,seed", "--group-by", "seed"), "group-by was model, is seed now"),
        ],
    )
    def test_other_options_are_another_run(self, folder: Path, arguments: Sequence[str], text: str) -> None:
        self.interrupted()
        assert text in " ".join(scored("out", "-o", "scores.csv", "--resume", *arguments, status=2).split())

    def test_a_manifests_cells_are_compared(self, folder: Path) -> None:
        Path("list.csv").write_text("image,seed\nout/1.png,99\nout/2.png,\n")
        arguments = ("list.csv", "-o", "scores.csv", "--columns", "seed")
        scored(*arguments)
        lines = Path("scores.csv").read_text().splitlines(keepends=True)
        Path("scores.csv").write_text("".join(lines[:2]))
        Path("list.csv").write_text("image,seed\nout/1.png,98\nout/2.png,\n")
        assert "seed '99', this run seed '98'" in " ".join(scored(*arguments, "--resume", status=2).split())


class TestGroups:
    def test_by_a_field(self, folder: Path) -> None:
        said = scored(folder, "-o", "scores.csv", "--group-by", "model", status=1)
        assert cells(Path("scores.csv"), "group") == [("sdxl",), ("flux",), (None,), ("sdxl",)]
        assert "--group-by model: no model is known of 1 of 4 images: no group" in said
        assert Path("scores.csv").read_text().splitlines()[0].endswith(",error")  # no column that was not asked for

    def test_by_a_manifests_column_whatever_the_table_calls_it(self, folder: Path) -> None:
        Path("list.csv").write_text("image,model,quality\nout/1.png,mine,good\nout/2.png,,bad\n")
        scored("list.csv", "-o", "by_field.csv", "--group-by", "model")
        assert cells(Path("by_field.csv"), "group") == [("mine",), ("flux",)]
        scored("list.csv", "-o", "by_column.csv", "--group-by", "quality")
        assert cells(Path("by_column.csv"), "group") == [("good",), ("bad",)]

    def test_an_expression_that_is_a_fields_name_is_written_in_parentheses(self, folder: Path) -> None:
        picture(Path("model/1.png"), "a fox")
        scored("model", "-o", "scores.csv", "--group-by", "(model)")
        assert cells(Path("scores.csv"), "group") == [("model",)]

    @pytest.mark.parametrize(
        ("rule", "columns", "without", "text"),
        [
            ("model", (), 0, None),
            ("style", ("style",), 3, "--group-by style: no style is known of 3 of 3 images: no group"),
            ("v[0-9]", (), 2, None),
            ("modle", (), 3, "--group-by modle matches none of the images' paths: there are no groups "
             "(did you mean model?)"),
        ],
    )  # fmt: skip
    def test_what_is_said_of_images_without_a_group(
        self, rule: str, columns: Sequence[str], without: int, text: str | None
    ) -> None:
        assert ungrouped_note(rule, columns, without, 3) == text


def test_an_actor_on_ray_reads_what_it_is_told_to(folder: Path) -> None:
    from aigciqa.scoring.generation import Wanted

    setup = Setup([untrained("nr-lite")], False, None, generation=Wanted(("seed",), "model"))
    (record,) = setup.engine().run([Item("out/2.png")])
    assert (record.extra, record.group) == ({"seed": "8"}, "flux")


def row(image: str, quality: float | None, group: str | None = None, **extra: str | None) -> dict[str, Any]:
    empty: dict[str, Any] = dict.fromkeys(COLUMNS)
    error = "torn" if quality is None else None
    return {**empty, "image": image, "group": group, "metric": "nr-lite", "quality": quality, "error": error, **extra}


def groups_of(rows: Mapping[str, Sequence[tuple[str | None, str | None]]]) -> list[Group]:
    """Groups of images 0.png, 1.png and so on, with their prompts and seeds."""
    return [
        Group.of_rows(
            name, [row(f"{name}/{n}.png", 1.0, prompt=prompt, seed=seed) for n, (prompt, seed) in enumerate(each)]
        )
        for name, each in rows.items()
    ]


class TestMatching:
    ALL = tuple((prompt, seed) for prompt in ("cat", "dog", "fox") for seed in "12")

    @pytest.mark.parametrize(
        ("one", "other", "rule"),
        [
            (ALL, ALL[::-1], "prompt and seed"),
            (ALL, (*ALL[::2], ("cat", "9")), "prompt and seed"),  # a seed of each prompt is enough
            (ALL, (*ALL[:4], ("fox", "9")), "prompt"),  # the fox would be left out
            (ALL, (*ALL[:5], ("fox", None)), "prompt"),
            (ALL, tuple((f"{prompt}\n", f"{seed}.0") for prompt, seed in ALL), "prompt and seed"),  # of a spreadsheet
            (ALL, tuple((f"a {prompt}", seed) for prompt, seed in ALL), None),  # numbers of other prompts
            (ALL, ((None, "1"), *ALL[1:], (None, None)), "prompt and seed"),  # a screenshot or two
            (ALL, ((None, "1"), *((f"a {prompt}", seed) for prompt, seed in ALL)), None),
            (ALL, (*[(None, "1")] * 3, *ALL[3:]), "relative path"),  # half of them
        ],
    )
    def test_by_prompt_and_seed_where_no_prompt_is_lost(
        self, one: Sequence[tuple[str, str]], other: Sequence[tuple[str, str]], rule: str | None
    ) -> None:
        assert match(groups_of({"one": one, "other": other})).rule == rule

    def test_what_failed_does_not_change_the_rule(self) -> None:
        one, other = groups_of({"one": self.ALL, "other": self.ALL})
        for group, failed in ((one, 4), (other, 5)):  # the fox has no seed that both have a score of
            group.rows[failed]["error"] = "torn"
        assert match([one, other]).rule == "prompt and seed"

    def test_a_group_without_prompts_is_matched_with_none(self) -> None:
        found = match(groups_of({"one": self.ALL, "other": self.ALL, "photos": [(None, None)] * 6}))
        assert (found.rule, list(found.keys)) == ("prompt and seed", ["one", "other"])

    def test_seeds_are_averaged_within_prompts(self) -> None:
        keys, seeds = ("cat", "cat", "cat", "dog"), ("1", "2", "2", "1")
        first = Scores(np.array([1.0, 2.0, 4.0, 5.0]), keys, seeds)
        second = Scores(np.array([0.0, 9.0, 1.0, 3.0]), ("cat", "cat", "cat", "dog"), ("1", "3", "2", "1"))
        (found,) = differences({"first": first, "second": second})
        # cat: seeds 1 and 2 differ by 1 - 0 and 3 - 1, seed 3 has no partner; dog: 5 - 3
        assert (found.n, found.pairs, found.matched, found.difference) == (2, 3, True, (1.5 + 2.0) / 2)
        (margin,) = non_inferiority({"first": first, "second": second}, "second", 0.5)
        assert (margin.mean, margin.baseline_mean) == ((2.0 + 5.0) / 2, (0.5 + 3.0) / 2)
        with pytest.raises(InputError, match="4 scores but 1 seeds"):
            Scores(first.values, keys, ("1",))

    def test_more_seeds_prove_nothing_more(self) -> None:
        rng = np.random.default_rng(0)
        prompts = [f"p{number}" for number in range(10)]
        shift = rng.normal(0.3, 1, 10)

        def found(seeds: int) -> Difference:
            keys = tuple(prompt for prompt in prompts for _ in range(seeds))
            numbers = tuple(str(seed) for _ in prompts for seed in range(seeds))
            values = np.zeros(10 * seeds)
            first = Scores(values + np.repeat(shift, seeds), keys, numbers)
            return differences({"first": first, "second": Scores(values, keys, numbers)})[0]

        assert found(50).p_value == pytest.approx(found(1).p_value)

    def test_folders_are_matched_by_what_their_files_say(self, folder: Path) -> None:
        for number, prompt in enumerate(["a fox", "a dog", "a cat"]):
            for seed in (1, 2):
                picture(Path(f"flux/{number}{seed}.png"), prompt, seed, look=number)
                picture(Path(f"sdxl/x{9 - number}{seed}.png"), prompt, seed, look=number)
        picture(Path("flux/screenshot.png"))
        done = run(compare.main, "flux", "sdxl", "-m", "nr-lite", "--report", "page.html", "-o", "compared.json")
        assert "matched by their prompt and seed: 3 prompts, 6 pairs in common." in done.stdout
        assert "in common. Without a prompt, and matched with none: flux/screenshot.png." in done.stdout
        Path("flux/screenshot.png").unlink()
        (block,) = json.loads(Path("compared.json").read_text())["blocks"]
        assert (block["differences"][0]["n"], block["differences"][0]["pairs"]) == (3, 6)
        assert [each["text"] for each in data_of(Path("page.html"))["grid"]["rows"]] == ["a fox", "a dog", "a cat"]
        Path("sdxl/x92.png").unlink()
        Path("sdxl/x91.png").unlink()
        done = run(compare.main, "flux", "sdxl", "-m", "nr-lite")
        assert "2 prompts, 4 pairs in common. Differences leave out prompts that only one" in done.stdout

    def test_other_prompts_are_not_compared_silently(self, folder: Path) -> None:
        for number in range(3):
            picture(Path(f"flux/{number}.png"), f"a fox {number}")
            picture(Path(f"sdxl/{number}.png"), f"a dog {number}")
        done = run(compare.main, "flux", "sdxl", "-m", "nr-lite")
        assert "Images are not matched" in done.stdout
        assert "Scores of different prompts are compared" in done.stdout


@pytest.mark.parametrize("output", [(), ("-o", "scores.csv"), ("-o", "scores.csv", "--columns", "prompt")])
def test_intervals_resample_the_prompts_of_the_files(
    output: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [picture(Path(f"out/{look}.png"), "a fox", seed=look, look=look) for look in range(3)]
    line = scored("out", *output).splitlines()[2]
    assert "[" not in line  # seeds of one prompt say nothing of others
    assert line.split()[:3] == ["nr-lite", "3", "0"]
    picture(Path(names[0]), "a dog")
    assert "[" in scored("out", *output, *(("--overwrite",) if output else ())).splitlines()[2]


class TestReport:
    def test_prompts_come_from_the_files_without_columns(self, folder: Path) -> None:
        picture(Path("out/2.png"), '<b>"a dog"</b> & x' * 200, 8, "flux")
        scored(folder, "-o", "scores.csv", "--report", "page.html", status=1)
        data = data_of(Path("page.html"))
        assert [data["prompts"][index] if index is not None else None for index in data["prompt"]] == [
            "a fox\nin snow", ('<b>"a dog"</b> & x' * 200)[: TEXT_LIMIT - 1] + "…", None
        ]  # fmt: skip
        assert (data["seeds"], data["models"]) == (["7", "8", None], ["sdxl", "flux", None])
        assert "<b>" not in Path("page.html").read_text().split('id="data"')[1]
        assert "prompt" not in Path("scores.csv").read_text().splitlines()[0]

    def test_also_of_rows_of_an_earlier_run(self, folder: Path) -> None:
        scored(folder, "-o", "scores.csv", status=1)
        scored(folder, "-o", "scores.csv", "--resume", "--report", "page.html", status=1)
        assert data_of(Path("page.html"))["seeds"] == ["7", "8", None]

    def test_seeds_of_a_prompt_share_a_row_and_are_matched(self, tmp_path: Path) -> None:
        rows = [
            row(f"{group}/{prompt}{seed}{group}.png", float(number + ord(seed) % 3), group, prompt=prompt, seed=seed)
            for number, group in enumerate(("flux", "sdxl"))
            for prompt in ("cat", "dog")
            for seed in "12"
        ]
        page = write_report(tmp_path / "page.html", rows, COLUMNS)
        assert data_of(page)["grid"]["row"] == [0, 0, 1, 1, 0, 0, 1, 1]
