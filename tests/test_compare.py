"""`aigciqa compare` and what it is made of: groups, their matching by prompt, the tables."""

from __future__ import annotations

import csv
import errno
import html
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from aigciqa.cli.compare import main
from aigciqa.compare.groups import GROUP_LIMIT, Group, compare, match
from aigciqa.compare.picking import by_step, checkpoint_names
from aigciqa.records import Record
from aigciqa.scoring import decoding
from aigciqa.scoring.sinks import FileSink
from aigciqa.stats.groups import proving_prompts
from aigciqa.tables import provenance
from aigciqa.tables.columns import columns_of, to_row
from aigciqa.tables.text import probability, rounded
from tests.conftest import Watch
from tests.test_report import cells_of, data_of, thumbnails_of

DIMENSIONS = ("quality", "authenticity")


def row(image: str, quality: float | None, **cells: Any) -> dict[str, Any]:
    """A row of a table; its authenticity is one below its quality."""
    record = Record(
        image,
        cells.get("reference"),
        cells.get("group"),
        cells.get("metric", "nr-lite"),
        {} if quality is None else {"quality": quality, "authenticity": quality - 1},
        f"{image}: torn" if quality is None else None,
    )
    return to_row(record, columns_of(DIMENSIONS))


def rows(folder: str, mean: float, count: int = 20, suffix: str = ".png", **cells: Any) -> list[dict[str, Any]]:
    """Rows of images 0 to `count`, whose prompts are as hard in every folder."""
    hard = np.random.default_rng(1).normal(0, 1, count)
    own = np.random.default_rng(sum(folder.encode())).normal(0, 0.2, count)
    return [row(f"{folder}/{n}{suffix}", mean + hard[n] + own[n], **cells) for n in range(count)]


def table(path: Path, *parts: Sequence[Mapping[str, Any]]) -> str:
    sink = FileSink(str(path), columns_of(DIMENSIONS), {"format": 1})
    sink.start()
    sink.write([row for part in parts for row in part])
    sink.close()
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="aigciqa compare")


class TestMatching:
    def test_by_reference_where_all_have_one(self) -> None:
        one = [row(f"a/{n}.png", 1, reference=f"prompts/{n // 2}.png") for n in range(4)]
        other = [row(f"b/{n}.png", 1, reference=f"prompts/./{n // 2}.png") for n in range(4)]
        found = match([Group.of_rows("a", one), Group.of_rows("b", other)])
        assert found.rule == "reference"
        assert found.keys["a"] == found.keys["b"]
        assert len(set(found.keys["a"])) == 2

    def test_by_the_references_name_where_their_folder_moved(self) -> None:
        one = [row(f"a/{n}-x.png", 1, reference=f"prompts/{n}.png") for n in range(4)]
        other = [row(f"b/{n}-y.png", 1, reference=f"/ci/prompts/{n}.png") for n in range(4)]
        assert match([Group.of_rows("a", one), Group.of_rows("b", other)]).rule == "name of the reference"

    def test_a_row_without_scores_needs_no_reference(self) -> None:
        one = [row(f"a/{n}.png", 1, reference=f"prompts/{n // 2}.png") for n in range(4)] + [row("a/5.png", None)]
        other = [row(f"b/{n}.png", 1, reference=f"prompts/{n // 2}.png") for n in range(4)] + [row("b/5.png", None)]
        assert match([Group.of_rows("a", one), Group.of_rows("b", other)]).rule == "reference"

    def test_not_by_reference_if_one_is_unknown(self) -> None:
        one = [row(f"a/{n}.png", 1, reference=f"prompts/{9 - n}.png") for n in range(4)]
        other = [row(f"b/{n}.png", 1, reference=f"prompts/{n}.png" if n else None) for n in range(4)]
        assert match([Group.of_rows("a", one), Group.of_rows("b", other)]).rule == "relative path"

    def test_by_the_prompts_text(self) -> None:
        one = [{**row(f"a/{n}.png", 1, reference="p.png"), "prompt": f"caf\u00e9 {n // 2}"} for n in range(4)]
        other = [{**row(f"b/{9 - n}.png", 1), "prompt": f"cafe\u0301 {n // 2}"} for n in range(4)]
        found = match([Group.of_rows("a", one), Group.of_rows("b", other)])
        assert found.rule == "prompt"
        assert found.keys["a"] == found.keys["b"]
        assert len(set(found.keys["a"])) == 2

    @pytest.mark.parametrize(
        ("one", "other", "rule"),
        [
            (["x/1.png", "y/1.png"], ["x/1.png", "y/1.png"], "relative path"),
            (["x/1.png", "y/1.png"], ["x/1.jpg", "y/1.jpg"], "relative path without its suffix"),
            (["1.png", "2.png", "3.png"], ["1.png", "2.png", "3.jpg"], "relative path without its suffix"),
            (["x/1.png", "y/2.png"], ["z/1.png", "z/v/2.png"], "stem"),
            (["x/1.png", "y/1.png"], ["z/1.png", "z/v/2.png"], None),  # two images of one stem are two prompts
            (["1.png", "2.png"], ["1.png", "3.png"], None),  # one in common is no ground
        ],
    )  # fmt: skip
    def test_by_paths(self, one: list[str], other: list[str], rule: str | None) -> None:
        groups = [
            Group(name, [row(f"{name}/{path}", 1) for path in paths], paths)
            for name, paths in (("a", one), ("b", other))
        ]
        assert match(groups).rule == rule

    def test_the_folder_of_a_group_is_what_its_images_have_in_common(self) -> None:
        group = Group.of_rows("a", [row("out/sd/x/1.png", 1), row("/gone.png", None), row("out/sd/y/1.png", 1)])
        assert [group.relative_paths[index] for index in (0, 2)] == ["x/1.png", "y/1.png"]


class TestCompare:
    def test_every_metric_and_dimension_is_compared(self) -> None:
        one = rows("a", 3) + rows("a", 2, metric="fr-lite")
        other = rows("b", 3.5) + rows("b", 2, metric="fr-lite") + rows("b", 2, metric="clip")
        found = compare([Group.of_rows("a", one), Group.of_rows("b", other)], DIMENSIONS)
        assert [each.label for each in found.comparisons] == [
            "nr-lite · quality", "nr-lite · authenticity", "fr-lite · quality", "fr-lite · authenticity"
        ]  # fmt: skip
        assert found.uncompared == (("clip", "quality", "b"), ("clip", "authenticity", "b"))
        (difference,) = found.comparisons[0].differences
        assert (difference.first, difference.second, difference.n, difference.matched) == ("b", "a", 20, True)
        assert difference.is_significant

    def test_failures_leave_their_prompt_out_on_both_sides(self) -> None:
        one, other = rows("a", 3), rows("b", 3)
        one[4] = row("a/4.png", None)
        found = compare([Group.of_rows("a", one), Group.of_rows("b", other)], DIMENSIONS)
        assert found.comparisons[0].differences[0].n == 19
        assert [(name, failed["image"]) for name, failed in found.failures] == [("a", "a/4.png")]

    @pytest.mark.parametrize(("share", "below"), [(0.5, []), (0.99, ["a"])])
    def test_groups_below_a_share_of_the_baseline(self, share: float, below: list[str]) -> None:
        groups = [Group.of_rows(name, rows(name, mean)) for name, mean in (("a", 2.5), ("base", 3.0), ("c", 4.0))]
        found = compare(groups, ["quality"], baseline="base", share=share)
        assert [each.name for _, each in found.below] == below
        assert [each.name for each in found.comparisons[0].non_inferiority] == ["a", "c"]

    def test_a_group_without_scores_is_below(self) -> None:
        groups = [Group.of_rows(name, rows(name, 3)) for name in "ab"]
        groups.append(Group.of_rows("c", [row("c/1.png", None)]))
        found = compare(groups, ["quality"], baseline="a", share=0.1)
        assert [each.name for _, each in found.below] == ["c"]

    def test_nonsense_is_refused(self) -> None:
        one, other = Group.of_rows("a", rows("a", 3)), Group.of_rows("b", rows("b", 3))
        negative = Group.of_rows("n", rows("n", -3))
        clip = Group.of_rows("c", rows("c", 1, metric="clip"))
        apart = Group.of_rows("p", [row(f"p/{n}.png", -0.9) for n in range(2)])
        mixed = Group.of_rows("m", [row(f"m/{n}.png", quality) for n, quality in enumerate((-1, -1, 9, 9))])
        even = Group.of_rows("e", [row(f"e/{n}.png", quality) for n, quality in enumerate((-1, 1, 9, 9))])
        unscored = Group.of_rows("u", rows("u", math.nan))
        unscored_too = Group.of_rows("v", rows("v", math.inf))
        for groups, options, complaint in (
            ([one], {}, "at least two groups"),
            ([one, one], {}, "different names"),
            ([one, other], {"baseline": "x"}, "'x' is none of the groups: a, b"),
            ([one, other], {"share": 0.9}, "Name the baseline: one of a, b"),
            (
                [Group.of_rows(f"{number}", rows("a", 3, 2)) for number in range(GROUP_LIMIT + 1)],
                {},
                "at most 200 groups are compared pair by pair; of 201, name a baseline",
            ),
            ([one, negative], {"baseline": "n", "share": 0.9}, "the baseline's mean is -"),
            ([apart, mixed], {"baseline": "m", "share": 0.95}, "mean is -1.000 over the 2 prompts that p has, too"),
            ([apart, even], {"baseline": "e", "share": 0.95}, "mean is 0.000 over the 2 prompts that p has, too"),
            ([one, other, clip], {"baseline": "c", "share": 0.9}, "nr-lite · quality: the baseline 'c' has no scores"),
            ([unscored, other], {}, "no two groups have scores of the same metric: b has nr-lite · quality"),
            ([unscored, unscored_too], {}, "no two groups have scores of the same metric: there are none"),
            ([one, clip], {}, "no two groups have scores of the same metric: a has nr-lite · quality; c has clip"),
        ):
            with pytest.raises(ValueError, match=complaint):
                compare(groups, ["quality"], **options)


class TestTables:
    """The command over tables of scores."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("tables")
        table(folder / "old.csv", rows("out/old", 3.0))
        table(folder / "new.jsonl", rows("out/new", 3.6))
        table(folder / "both.parquet", rows("out/old", 3.0, group="old"), rows("out/new", 3.6, group="new"))
        torn = rows("out/torn", 3.0)
        torn[7:9] = [row("out/torn/7.png", None), row("out/torn/8.png", None)]
        table(folder / "torn.json", torn)
        return folder

    def test_a_table_for_each_group(self, folder: Path) -> None:
        done = run(str(folder / "old.csv"), str(folder / "new.jsonl"))
        assert done.exit_code == 0
        assert "2 groups.\nImages are matched by their relative path: 20 prompts in common." in done.stdout
        for words in ("nr-lite · quality", "nr-lite · authenticity", "significant", "100%", "yes", "< 0.001"):
            assert words in done.stdout
        assert "(Holm)" not in done.stdout  # a single pair has nothing to correct
        lines = done.stdout.splitlines()
        assert [line.split()[0] for line in lines if line.startswith(("old", "new"))][:2] == ["new", "old"]

    def test_corrected_p_values_are_said_to_be(self, folder: Path) -> None:
        (folder / "torn.csv").write_text((folder / "old.csv").read_text().replace("/old/", "/third/"))
        done = run(*(str(folder / name) for name in ("old.csv", "new.jsonl", "torn.csv")))
        assert "p is corrected for the number of pairs (Holm): below 0.05 it is significant." in done.stdout

    def test_one_table_with_groups_says_the_same(self, folder: Path) -> None:
        apart = run(str(folder / "old.csv"), str(folder / "new.jsonl"), "--format", "json")
        together = run(str(folder / "both.parquet"), "--format", "json")
        assert json.loads(together.stdout) == json.loads(apart.stdout)

    def test_json_has_every_figure(self, folder: Path) -> None:
        done = run(
            str(folder / "both.parquet"), "--dimension", "quality", "--baseline", "old", "--fail-below", "0.5",
            "--format", "json",
        )  # fmt: skip
        found = json.loads(done.stdout)
        assert (found["matched_by"], found["baseline"], found["fail_below"], found["passed"]) == (
            "relative path", "old", 0.5, True
        )  # fmt: skip
        (block,) = found["blocks"]
        expected = np.mean([each["quality"] for each in rows("out/new", 3.6)])
        assert block["standings"][0]["mean"] == pytest.approx(expected, abs=1e-6)
        assert block["differences"][0]["first"] == "new"
        assert block["margins"][0]["name"] == "new"

    def test_csv_has_a_row_for_each_pair(self, folder: Path) -> None:
        done = run(str(folder / "both.parquet"), str(folder / "torn.json"), str(folder / "old.csv"), "--format", "csv")
        found = list(csv.DictReader(io.StringIO(done.stdout)))
        assert len(found) == 2 * 3
        assert {each["pairs"] for each in found} == {""}  # of prompt and seed, which these rows don't have
        assert all(float(each["first_mean"]) >= float(each["second_mean"]) for each in found)

    @pytest.mark.parametrize("suffix", [".md", ".json", ".csv"])
    def test_what_is_written_is_what_is_printed(self, folder: Path, tmp_path: Path, suffix: str) -> None:
        output = tmp_path / "sub" / f"comparison{suffix}"
        form = {".md": "markdown", ".json": "json", ".csv": "csv"}[suffix]
        done = run(str(folder / "both.parquet"), "-o", str(output), "--format", form)
        assert output.read_text() == done.stdout
        quiet = run(str(folder / "both.parquet"), "-o", str(output), "--quiet")
        assert quiet.stdout == ""

    def test_markdown_is_a_table_whatever_groups_are_called(self, tmp_path: Path) -> None:
        name = "<script>a|b\n*c*`"
        path = table(tmp_path / "odd.json", rows("a", 3, group=name), rows("b", 3, group="\u202eb"))
        done = run(path, "--format", "markdown")
        assert done.exit_code == 0
        assert r"\<script>a\|b\\n\*c\*\`" in done.stdout
        cells = {line.replace(r"\|", "").count("|") for line in done.stdout.splitlines() if line.startswith("| ")}
        assert cells == {7, 8}
        assert "\u202e" not in done.stdout

    def test_failures_are_counted_and_named_and_end_in_status_1(self, folder: Path) -> None:
        done = run(str(folder / "old.csv"), str(folder / "torn.json"))
        assert done.exit_code == 1
        assert "2 scores missing and left out:\n- torn: out/torn/7.png: torn" in done.stdout
        assert "18 prompts in common" in done.stdout
        assert "2 scores missing" in done.stderr
        (line,) = [
            line for line in done.stdout.splitlines() if line.startswith("torn") and "[" in line and "%" not in line
        ][:1]
        assert line.split()[1:3] == ["18", "2"]

    @pytest.mark.parametrize(("share", "status"), [("0.9", 0), ("1.5", 1)])
    def test_the_gate(self, folder: Path, share: str, status: int) -> None:
        path = str(folder / "both.parquet")
        done = run(path, "--baseline", "old", "--fail-below", share, "--dimension", "quality")
        assert done.exit_code == status
        if status:
            assert "FAILED: nr-lite · quality: new is 1." in done.stdout
            assert f"needed: {share}" in done.stdout
            assert "below 1.5 of the baseline: new (nr-lite · quality)" in done.stderr
        else:
            assert "passed: nr-lite · quality: new is 1." in done.stdout
            assert done.stderr == ""
        assert "over the 20 prompts that both have); needed:" in done.stdout

    def test_the_gate_says_when_noise_could_turn_it(self, tmp_path: Path) -> None:
        path = table(tmp_path / "near.csv", rows("a", 3.0, group="a"), rows("b", 3.0, group="b"))
        ratio = json.loads(run(path, "--baseline", "a", "--fail-below", "1", "--format", "json").stdout)
        margin = ratio["blocks"][0]["margins"][0]
        share = f"{margin['mean'] / margin['baseline_mean'] + 0.001:.4f}"
        done = run(path, "--baseline", "a", "--fail-below", share, "--dimension", "quality")
        assert done.exit_code == 1
        assert "noise alone could turn it" in done.stdout

    def test_few_prompts_are_said_to_prove_nothing(self, tmp_path: Path) -> None:
        count = proving_prompts(1) - 1
        path = table(tmp_path / "few.csv", rows("a", 3, count, group="a"), rows("b", 4, count, group="b"))
        assert f"Fewer than {proving_prompts(1)} prompts prove nothing" in run(path).stdout

    def test_unmatched_groups_are_said_to_be(self, tmp_path: Path) -> None:
        path = table(
            tmp_path / "apart.csv",
            rows("a", 3, group="a"),
            [{**each, "image": "b/x" + each["image"][2:], "group": "b"} for each in rows("a", 3)],
        )
        done = run(path)
        assert "Images are not matched" in done.stdout
        assert "20 unmatched" in done.stdout
        gate = run(path, "--baseline", "a", "--fail-below", "0.5")
        assert "over all scores, no prompts in common); needed: 0.5" in gate.stdout

    def test_m_takes_the_rows_of_that_metric(self, tmp_path: Path) -> None:
        parts = [rows(name, 3, metric=metric, group=name) for name in "ab" for metric in ("nr-lite", "clip")]
        done = run(table(tmp_path / "two.csv", *parts), "-m", "clip")
        assert "clip · quality" in done.stdout
        assert "nr-lite" not in done.stdout

    def test_the_report_finds_images_beside_the_table(
        self, tmp_path: Path, write_images: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_images("a", "1.png", "2.png")
        write_images("b", "1.png", "2.png")
        path = table(tmp_path / "scores.csv", rows("a", 3, 3, group="a")[1:], rows("b", 3, 3, group="b")[1:])
        monkeypatch.chdir("/")
        done = run(path, "--report", str(tmp_path / "report.html"))
        assert done.exit_code == 0, done.output
        assert "Comparison of a, b" in (tmp_path / "report.html").read_text()
        assert [bool(each) for each in thumbnails_of(tmp_path / "report.html")] == [True] * 4

    @pytest.mark.parametrize("options", [[], ["--baseline", "old"]])
    def test_the_report_says_what_the_terminal_says(
        self, folder: Path, tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(folder)
        page = tmp_path / "report.html"
        third = table(tmp_path / "third.csv", rows("out/third", 3.05))
        arguments = ["--dimension", "quality", "--report", str(page), "--format", "json", *options]
        done = run("old.csv", "new.jsonl", third, "torn.json", *arguments)
        (block,) = json.loads(done.stdout)["blocks"]
        expected = [
            [
                each["first"], each["second"], rounded(each["difference"], signed=True),
                f"{rounded(each['low'], signed=True)} to {rounded(each['high'], signed=True)}",
                f"{each['win_rate']:.0%}", probability(each["p_value"]) + (" *" if each["is_significant"] else ""),
                f"{each['n']} prompts",
            ]
            for each in block["differences"]
        ]  # fmt: skip
        assert [[html.unescape(cell) for cell in line] for line in cells_of(page, "Every pair")[1:]] == expected

    def test_the_report_says_what_tables_know_of_their_metric(self, tmp_path: Path) -> None:
        preprocess = {"resize": 480, "crop": 320, "mean": [0, 0, 0]}
        made_by = {
            "format": 1,
            "dimensions": {"quality": [1, 7]},
            "metrics": [{"name": "nr-lite", "preprocess": preprocess}],
        }
        paths, page = [], tmp_path / "report.html"
        for name in ("a", "b"):
            lines = [f"{name}/{n}.png,nr-lite,{2 + n},0.{n + 1}" for n in range(3)]
            (tmp_path / f"{name}.csv").write_text("\n".join(["image,metric,quality,quality_std", *lines]) + "\n")
            provenance.write(str(tmp_path / f"{name}.csv"), made_by)
            paths.append(str(tmp_path / f"{name}.csv"))
        assert run(*paths, "--report", str(page)).exit_code == 0
        (column,) = data_of(page)["columns"]
        assert (column["values"], column["std"]) == ([2, 3, 4] * 2, [0.1, 0.2, 0.3] * 2)
        assert "Scores are on a scale of 1 to 7" in page.read_text()
        assert "67% of its short side" in page.read_text()
        # Tables by other weights: what holds of one does not of all.
        provenance.write(paths[1], {**made_by, "dimensions": {"quality": [0, 5]}})
        assert run(*paths, "--report", str(page), "--overwrite").exit_code == 0
        assert "on a scale of" not in page.read_text()
        assert "67% of its short side" not in page.read_text()

    @pytest.mark.parametrize("cell", ["n/a", "41"])
    def test_a_column_is_compared_only_where_its_table_declares_it(self, tmp_path: Path, cell: str) -> None:
        for name, foo in (("a", "3"), ("b", "4"), ("c", cell)):
            lines = "".join(f"{name}/{n}.png,nr-lite,{n},{foo}\n" for n in range(3))
            (tmp_path / f"{name}.csv").write_text(f"image,metric,quality,foo\n{lines}")
        for name in ("a", "b"):
            provenance.write(str(tmp_path / f"{name}.csv"), {"format": 1, "dimensions": {"foo": [0, 5]}})
        page = tmp_path / "report.html"
        done = run(*(str(tmp_path / f"{name}.csv") for name in "abc"), "--format", "json", "--report", str(page))
        assert done.exit_code == 0
        (block,) = (each for each in json.loads(done.stdout)["blocks"] if each["dimension"] == "foo")
        assert {each["name"]: each["n"] for each in block["standings"]} == {"a": 3, "b": 3, "c": 0}
        values = {column["label"]: column["values"] for column in data_of(page)["columns"]}
        assert values["nr-lite · foo"] == [3, 3, 3, 4, 4, 4, None, None, None]

    def test_the_report_matches_nothing_that_the_terminal_does_not(self, tmp_path: Path) -> None:
        one = [row(f"a/{n}-x.png", n % 5, reference="prompts/p.png" if n else None, group="a") for n in range(9)]
        other = [row(f"b/{n}-y.png", n % 3, reference="prompts/p.png", group="b") for n in range(9)]
        page = tmp_path / "report.html"
        done = run(table(tmp_path / "two.csv", one, other), "--report", str(page))
        assert "Images are not matched" in done.stdout
        assert {line[-1] for line in cells_of(page, "Every pair")[1:]} == {"no"}

    def test_files_are_written_though_nobody_reads_standard_output(
        self, folder: Path, tmp_path: Path, watch: Watch
    ) -> None:
        watch(click, "echo", BrokenPipeError(errno.EPIPE, "Broken pipe"))
        output, page = tmp_path / "comparison.md", tmp_path / "report.html"
        run(str(folder / "both.parquet"), "-o", str(output), "--report", str(page))
        assert output.exists()
        assert page.exists()

    def test_standard_output_has_what_can_not_be_written(self, folder: Path) -> None:
        done = run(str(folder / "both.parquet"), "-o", "/proc/comparison.md")
        assert done.exit_code == 1
        assert "nr-lite · quality" in done.stdout
        assert "can't write" in done.stderr

    def test_rows_of_no_group_are_one_of_their_own(self, tmp_path: Path) -> None:
        path = table(tmp_path / "three.csv", rows("a", 3), rows("b", 3, group="-"))
        found = json.loads(run(path, "--format", "json").stdout)
        assert [each["name"] for each in found["groups"]] == ["(no group)", "-"]

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            ([], "nothing to compare"),
            (["old.csv"], "all images of old are of one group"),
            (["old.csv", "./old.csv"], "named twice"),
            (["old.csv", "absent.csv"], "no such file"),
            (["both.parquet", "--fail-below", "0.9"], "name it with --baseline"),
            (["both.parquet", "--baseline", "odl"], "'odl' is none of the groups: old, new"),
            (["both.parquet", "-m", "clip"], "has no scores by clip; it has nr-lite"),
            (["both.parquet", "--dimension", "beauty"], "no scores of 'beauty'; there are quality, authenticity"),
            (["both.parquet", "-r", "."], "-r goes with images"),
            (["both.parquet", "-o", "x.txt"], "ends in one of .md, .json, .csv"),
            (["both.parquet", "--report", "x.txt"], "html"),
            (["."], "is one group: name several folders"),
            (["../"], "../ is one group: name several folders, such as ../*"),
        ],
    )
    def test_usage_errors(
        self, folder: Path, arguments: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(folder)
        done = run(*arguments)
        assert done.exit_code == 2
        assert complaint in " ".join(done.stderr.split())


class TestFolders:
    """The command over folders of images."""

    def test_folders_are_scored_and_matched(
        self, tmp_path: Path, write_images: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for folder in ("prompts", "one", "two"):
            write_images(folder, "x/1.png", "x/2.png", "y/1.png")
        (tmp_path / "two/y/torn.png").write_bytes(b"no image")
        monkeypatch.chdir(tmp_path)
        done = run("one", "two", "-r", "prompts", "-m", "fr-lite", "-m", "nr-lite", "--format", "json")
        assert done.exit_code == 1, done.output
        found = json.loads(done.stdout)
        assert [(each["name"], each["rows"], each["failed"]) for each in found["groups"]] == [
            ("one", 6, 0),
            ("two", 8, 2),
        ]
        assert [block["metric"] for block in found["blocks"]] == ["fr-lite", "nr-lite"]
        for block in found["blocks"]:
            (difference,) = block["differences"]
            assert (difference["n"], difference["matched"], difference["difference"]) == (3, True, 0)
        assert {failure["image"] for failure in found["failures"]} == {str(Path("two/y/torn.png"))}

        alone = run("one", "two", "-r", "prompts/x/1.png", "--format", "json")  # the default with a reference
        assert [block["metric"] for block in json.loads(alone.stdout)["blocks"]] == ["fr-lite"]

    def test_a_folder_against_an_earlier_table_is_scored_by_its_metrics(
        self, tmp_path: Path, write_images: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_images("run/out", "1.png", "2.png")
        monkeypatch.chdir(tmp_path)
        table(tmp_path / "out.csv", [row(f"elsewhere/{n}.png", 3.0, metric="nr-lite") for n in (1, 2, 3)])
        done = run("run/out", "out.csv", "--baseline", "out.csv", "--dimension", "quality", "--format", "json")
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert [each["name"] for each in found["groups"]] == ["run/out", "out.csv"]  # both would be called out
        assert [(block["metric"], block["differences"][0]["n"]) for block in found["blocks"]] == [("nr-lite", 2)]

    def test_a_folder_and_a_table_of_one_are_matched_by_the_same_paths(
        self, tmp_path: Path, write_images: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = ["x/a/1.png", "x/a/2.png", "x/b/1.png", "x/b/2.png"]
        write_images("new", *names)
        monkeypatch.chdir(tmp_path)
        table(tmp_path / "old.csv", [row(f"old/{name}", 3.0) for name in names])
        found = json.loads(run("new", "old.csv", "--dimension", "quality", "--format", "json").stdout)
        assert (found["matched_by"], found["blocks"][0]["differences"][0]["n"]) == ("relative path", 4)

    def test_nothing_is_scored_before_what_is_wrong_is_said(
        self, tmp_path: Path, write_images: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, watch: Watch
    ) -> None:
        write_images("one", "1.png")
        write_images("two", "1.png")
        monkeypatch.chdir(tmp_path)
        reads = watch(decoding, "read_content")
        for arguments, complaint in (
            (["one", "two", "--baseline", "odl"], "the baseline 'odl' is none of the groups: one, two"),
            (["one", "tow"], "tow: no such file or folder"),
            (["one", "one/"], "named twice"),
        ):
            done = run(*arguments)
            assert done.exit_code == 2
            assert complaint in done.stderr
        assert reads == []

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["one", "two", "-m", "fr-lite"], "compares with a reference"),
            (["one", "two", "-m", "nr-lite", "-r", "one"], "takes no reference"),
            (["one", "empty"], "no images in empty"),
            (["one", "two", "-m", "nr-lyte"], "nr-lite"),
            (["one", "two", "-m", "nr-lite", "-m", "nr-lite"], "the same metric is named twice"),
            (["one", "two", "-m", "nr-lite", "-m", "fr-lite", "--weights", "native"], "--weights goes with one metric"),
        ],
    )
    def test_usage_errors(
        self,
        tmp_path: Path,
        write_images: Callable[..., list[str]],
        arguments: list[str],
        complaint: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        write_images("one", "1.png")
        write_images("two", "1.png")
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path)
        done = run(*arguments)
        assert done.exit_code == 2
        assert complaint in " ".join(done.stderr.split())


class TestCheckpoints:
    """`--by checkpoint`, and one table divided by a column."""

    @pytest.mark.parametrize(
        ("paths", "names"),
        [
            (["runs/step-500/samples", "runs/step-1000/samples"], ["step-500", "step-1000"]),
            (["out/checkpoint-1000/", "out/checkpoint-2000"], ["checkpoint-1000", "checkpoint-2000"]),
            (["epoch=3-step=900/x", "epoch=4-step=1200/x"], ["epoch=3-step=900", "epoch=4-step=1200"]),
            (["a/step-1/x", "b/step-1/x", "b/step-2/x"], ["a/step-1", "b/step-1", "b/step-2"]),
            (["runs/samples", "runs/samples/last"], ["samples", "samples/last"]),
            (["s3://bucket/step-1/x", "s3://bucket/step-2/x"], ["step-1", "step-2"]),
        ],
    )
    def test_names_are_what_tells_paths_apart(self, paths: list[str], names: list[str]) -> None:
        assert checkpoint_names(paths) == names

    def test_order_is_that_of_training(self) -> None:
        names = ["final", "Step-1500", "step-1000", "base", "step-500"]
        assert sorted(names, key=by_step) == ["base", "step-500", "step-1000", "Step-1500", "final"]
        epochs = ["epoch=10-step=3000", "epoch=3-step=900"]
        assert sorted(epochs, key=by_step) == ["epoch=3-step=900", "epoch=10-step=3000"]
        assert sorted(["lora_final", "lora-100", "finale-7"], key=by_step) == ["finale-7", "lora-100", "lora_final"]

    def test_the_pick_is_what_the_pairs_say(self) -> None:
        means = {"step-1": 3.0, "step-2": 3.58, "step-3": 3.6, "step-4": 3.57}
        groups = [Group.of_rows(name, rows(name, mean)) for name, mean in means.items()]
        (found,) = compare(groups, ["quality"], pick_best=True).comparisons
        pick = found.pick
        assert pick is not None
        assert pick.order == tuple(means)
        assert (pick.best, pick.runner_up) == (found.summaries[0], found.summaries[1].name)
        pairs = {each.second: each for each in found.differences if each.first == pick.best.name}
        assert {lead.second: lead for lead in pick.leads} == pairs
        assert [lead.second for lead in pick.leads] == [name for name in means if name != pick.best.name]
        assert pick.as_good == tuple(name for name in means if name not in pairs or not pairs[name].is_significant)
        assert 1 < len(pick.as_good) < 4
        (with_baseline,) = compare(groups, ["quality"], pick_best=True, baseline="step-1").comparisons
        assert with_baseline.pick == pick
        assert len(with_baseline.differences) == 3

    def test_easier_prompts_are_no_lead(self) -> None:
        good, weak = rows("step-1", 3.5), rows("step-2", 3.0)
        easier = sorted(weak, key=lambda each: float(each["quality"]))[16:]
        groups = [Group("step-1", good, [str(n) for n in range(20)])]
        groups.append(Group("step-2", easier, [str(weak.index(each)) for each in easier]))
        (found,) = compare(groups, ["quality"], pick_best=True).comparisons
        assert found.summaries[0].name == "step-2"
        assert found.pick is not None
        assert (found.pick.best.name, found.pick.runner_up) == ("step-1", "step-2")
        (lead,), (difference,) = found.pick.leads, found.differences
        assert (lead.first, lead.difference) == ("step-1", -difference.difference)
        assert (lead.low, lead.high) == (-difference.high, -difference.low)
        assert lead.win_rate == 1 - difference.win_rate
        assert 0 < lead.low < lead.difference < lead.high

    def test_scores_do_not_divide(self, tmp_path: Path) -> None:
        done = run(table(tmp_path / "scores.csv", rows("one", 3)), "--by", "quality")
        assert done.exit_code == 2
        assert "scores, which are compared and do not divide" in " ".join(done.stderr.split())

    def test_a_checkpoint_without_scores_is_not_among_them(self) -> None:
        groups = [Group.of_rows(name, rows(name, 3.0)) for name in ("step-1", "step-2")]
        groups.append(Group.of_rows("step-3", [row(f"step-3/{n}.png", None) for n in range(20)]))
        (found,) = compare(groups, ["quality"], pick_best=True).comparisons
        assert found.pick is not None
        assert found.pick.order == ("step-1", "step-2")

    def checkpoints(self, folder: Path, means: Mapping[str, float]) -> list[str]:
        found = []
        for name, mean in means.items():
            (folder / name).mkdir()
            found.append(table(folder / name / "scores.csv", rows(name, mean)))
        return found

    @pytest.mark.parametrize(
        ("means", "words"),
        [
            ({"step-500": 3, "step-1000": 5, "step-1500": 4}, "It is significantly better than each of the others."),
            ({"step-500": 3, "step-1000": 3, "step-1500": 3}, "Any of them may be as good."),
            (
                {"step-500": 1, "step-1000": 3, "step-1500": 3, "step-2000": 3, "step-2500": 2},
                "Any of step-1000 to step-2000 may be as good.",
            ),
            ({"step-500": 3, "step-1000": 1, "step-1500": 3}, "Any of step-500, step-1500 may be as good."),
        ],
    )
    def test_what_may_be_as_good_is_said(self, tmp_path: Path, means: Mapping[str, float], words: str) -> None:
        paths = self.checkpoints(tmp_path, {name: float(mean) for name, mean in means.items()})
        done = run(*sorted(paths), "--by", "checkpoint", "--dimension", "quality")
        assert done.exit_code == 0
        assert words in done.stdout
        assert f"is best of {len(means)} checkpoints, with a mean of" in done.stdout
        assert done.stdout.count("confirm it on prompts that it was not picked by") == 1

    def test_each_dimension_picks_its_own_and_json_has_it_all(self, tmp_path: Path) -> None:
        paths = self.checkpoints(tmp_path, {"step-500": 3.0, "step-1000": 5.0, "step-1500": 4.0})
        assert run(*paths, "--by", "checkpoint").stdout.count("step-1000 is best of 3 checkpoints") == 2
        found = json.loads(run(*paths, "--by", "checkpoint", "--format", "json").stdout)
        assert [each["name"] for each in found["groups"]] == ["step-500", "step-1000", "step-1500"]
        for block in found["blocks"]:
            pick = block["pick"]
            assert (pick["best"]["name"], pick["runner_up"], pick["as_good"]) == (
                "step-1000",
                "step-1500",
                ["step-1000"],
            )
            assert [lead["second"] for lead in pick["leads"]] == ["step-500", "step-1500"]

    def test_a_baseline_has_its_short_name(self, tmp_path: Path) -> None:
        paths = self.checkpoints(tmp_path, {"step-500": 3.0, "step-1000": 5.0})
        done = run(*paths, "--by", "checkpoint", "--baseline", "step-500", "--fail-below", "0.9")
        assert done.exit_code == 0
        assert "step-1000 is best of 2 checkpoints" in done.stdout
        assert "passed: nr-lite · quality: step-1000" in done.stdout

    def test_the_report_begins_with_the_pick(self, tmp_path: Path) -> None:
        paths = self.checkpoints(tmp_path, {"step-a&b": 3.0, "step-1000": 5.0})
        page = tmp_path / "report.html"
        done = run(*paths, "--by", "checkpoint", "--dimension", "quality", "--report", str(page))
        findings = re.findall('<p class="finding">(.*?)</p>', page.read_text(encoding="utf-8"), re.DOTALL)
        assert len(findings) == 2
        assert done.stdout.endswith("\n".join(map(html.unescape, findings)) + "\n")
        assert "Its lead over step-a&amp;b (runner-up, first)" in findings[0]
        run(*paths, "--report", str(page), "--overwrite")
        assert 'class="finding"' not in page.read_text(encoding="utf-8")

    def test_folders_of_pictures(self, tmp_path: Path, write_images: Callable[..., list[str]]) -> None:
        for step in (500, 1000):
            write_images(f"runs/step-{step}/samples", "1.png", "2.png")
        done = run(*(str(tmp_path / f"runs/step-{step}/samples") for step in (1000, 500)), "--by", "checkpoint",
                   "-m", "nr-lite", "--quiet")  # fmt: skip
        assert done.exit_code == 0
        assert "step-500" in done.stdout
        assert "best of 2 checkpoints" in done.stdout

    def test_one_table_is_divided_by_a_column(self, tmp_path: Path) -> None:
        parts = {"sdxl": rows("a", 3), "flux": rows("b", 4)}
        columns = (*columns_of(DIMENSIONS), "model", "checkpoint")
        sink = FileSink(str(tmp_path / "all.csv"), columns, {"format": 1})
        sink.start()
        for number, (model, part) in enumerate(parts.items()):
            sink.write([{**each, "model": model, "checkpoint": f"step-{10 - number}"} for each in part])
        sink.close()
        path = str(tmp_path / "all.csv")
        by_model = json.loads(run(path, "--by", "model", "--format", "json").stdout)
        assert [each["name"] for each in by_model["groups"]] == ["sdxl", "flux"]
        assert by_model["blocks"][0]["pick"] is None
        by_checkpoint = run(path, "--by", "checkpoint", "--dimension", "quality").stdout
        assert "step-9 is best of 2 checkpoints" in by_checkpoint
        assert "Its lead over step-10 (runner-up, last)" in by_checkpoint
        for arguments, complaint in (
            ([path, "--by", "modle"], "has no column 'modle'; it has"),
            ([path, str(tmp_path), "--by", "model"], "--by model divides one folder or table; got 2 arguments"),
            ([str(tmp_path), "--by", "checkpoint"], "is one group: name several folders, such as runs/*/samples"),
            ([path, "--by", "metric"], "are of one metric: name another column"),
        ):
            done = run(*arguments)
            assert done.exit_code == 2
            assert complaint in " ".join(done.stderr.split())
