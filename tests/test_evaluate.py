"""`aigciqa evaluate`, on look-alikes of databases: figures, files, splits, warnings, exit statuses; the examples."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from scipy import stats

import aigciqa
from aigciqa.checkpoints.format import write_checkpoint
from aigciqa.cli import evaluate, score
from aigciqa.databases import Database, load_database
from aigciqa.evaluation import published
from tests import lookalikes
from tests.conftest import untrained

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lookalikes.write_pku_i2iqa(tmp_path_factory.mktemp("pku-i2iqa"), prompts=8)


@pytest.fixture(scope="module")
def database(root: Path) -> Database:
    return load_database("pku-i2iqa", root)


@pytest.fixture(scope="module")
def text_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lookalikes.write_agiqa_3k(tmp_path_factory.mktemp("agiqa-3k"))


def warnings_of(done: Result) -> list[str]:
    """Lines of standard error, but those on figures that are left out."""
    return [line for line in done.stderr.splitlines() if "are left out" not in line]


def run(*arguments: object) -> Result:
    """The command in this process; standard error in `stderr`."""
    return CliRunner().invoke(evaluate.main, [str(each) for each in arguments], prog_name="aigciqa evaluate")


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def head(folder: Path, **training: Any) -> Path:
    """An untrained head that says how it was trained."""
    metric = untrained("nr-resnet18")
    write_checkpoint(folder, dataclasses.replace(metric.config, training=training), metric.state_dict())
    return folder


def test_report_plots_and_predictions(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(
        "pku-i2iqa", root, "-m", "nr-lite", "-m", "fr-lite", "--protocol", "paper",
        "-o", "new/report.json", "--plots", "plots", "--predictions", "predictions.csv",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("pku-i2iqa, protocol paper, test part")
    assert "Differences between metrics" in done.stdout
    assert warnings_of(done) == []
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    rows = rows_of(tmp_path / "predictions.csv")
    assert len(rows) == 2 * 16
    for result in report["results"]:
        mine = [row for row in rows if row["metric"] == result["metric"]]
        pairs = [[float(row[column]) for row in mine] for column in ("quality", "mos_quality")]
        assert result["srcc"]["value"] == pytest.approx(stats.spearmanr(*pairs)[0], abs=1e-9)
        assert result["krcc"]["value"] == pytest.approx(stats.kendalltau(*pairs)[0], abs=1e-9)
        assert result["plcc"]["value"] == pytest.approx(stats.pearsonr(*pairs)[0], abs=1e-9)
        assert set(result["generators"]) == {"MJ", "SD"}
    assert (tmp_path / "plots" / "generators-quality.png").stat().st_size > 10_000


def test_a_table_of_aigciqa_score(root: Path, database: Database, tmp_path: Path) -> None:
    scores, report = tmp_path / "scores.csv", tmp_path / "report.json"
    split = database.split("paper")
    images = [sample.image for sample in split.test]
    done = CliRunner().invoke(score.main, [*images, "-m", "nr-lite", "-o", str(scores)])
    assert done.exit_code == 0
    done = run("pku-i2iqa", root, "--scores", scores, "--protocol", "paper", "-o", report)
    assert done.exit_code == 0, done.stderr
    written = json.loads(report.read_text())
    given = [float(row["quality"]) for row in rows_of(scores)]
    expected = stats.spearmanr(given, [sample.scores["quality"] for sample in split.test])[0]
    assert written["results"][0]["srcc"]["value"] == pytest.approx(expected, abs=1e-9)
    assert written["split"] == split.digest


def test_a_column_of_any_metric(root: Path, database: Database, tmp_path: Path) -> None:
    table = tmp_path / "other.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("image", "step", "distance"))
        writer.writerows((Path(each.image).name, 7, 10 - each.scores["quality"]) for each in database.samples)
    report = tmp_path / "report.csv"
    arguments = ("pku-i2iqa", root, "--scores", table, "-m", "distance", "--part", "all", "-o", report)
    done = run(*arguments, "--lower-better", "distance", "-m", "nr-lite", "--dimension", "quality")
    assert done.exit_code == 0, done.stderr
    rows = [row for row in rows_of(report) if not row["generator"]]
    assert [(row["metric"], row["dimension"], row["n"]) for row in rows] == [
        ("distance", "quality", "64"),
        ("nr-lite", "quality", "64"),
    ]
    assert float(rows[0]["srcc"]) == pytest.approx(1)
    assert run(*arguments).exit_code == 2
    assert run(*arguments, "--overwrite").exit_code == 0
    assert [row["dimension"] for row in rows_of(report) if not row["generator"]] == [
        "quality", "authenticity", "correspondence", "overall"
    ]  # fmt: skip
    assert float(rows_of(report)[0]["srcc"]) == pytest.approx(-1)
    for extra, message in (
        (("--scores", table), "has no column of scores; it has: image, step, distance"),
        (("--scores", table, "-m", "nothing"), "has no column of scores; it has: image, step, distance"),
        (("--scores", table, "-m", "nothing", "-m", "distance"), "'nothing' is neither a metric nor in"),
        (("--scores", table, "-m", "distance", "-m", "distance"), "named twice"),
        (("--scores", table, "-m", "distance", "--lower-better", "x"), "--lower-better x: not one of"),
    ):
        refused = run("pku-i2iqa", root, *extra)
        assert (refused.exit_code, message in refused.stderr) == (2, True), refused.stderr


def test_a_dimension_of_ones_own(tmp_path: Path) -> None:
    lines = []
    for number in range(12):
        (tmp_path / f"{number}.png").touch()
        lines.append(f"{number}.png,{number % 5},{number}")
    (tmp_path / "manifest.csv").write_text("\n".join(["image,quality,aesthetics", *lines]))
    (tmp_path / "scores.csv").write_text("\n".join(["image,aesthetics", *(f"{n}.png,{n / 2}" for n in range(12))]))
    arguments = ("folder", tmp_path, "--scores", tmp_path / "scores.csv", "--part", "all")
    done = run(*arguments, "--manifest", "manifest.csv", "--dimension", "aesthetics", "-o", tmp_path / "r.csv")
    assert done.exit_code == 0, done.stderr
    (row,) = rows_of(tmp_path / "r.csv")
    assert (row["metric"], row["dimension"], float(row["srcc"])) == ("scores", "aesthetics", pytest.approx(1))


def test_what_a_table_lacks_is_a_failure(root: Path, database: Database, tmp_path: Path) -> None:
    table = tmp_path / "other.csv"
    lines = [f"{Path(each.image).name},{each.scores['quality']}" for each in database.split("paper").test]
    table.write_text("image,quality\n" + "\n".join(lines[1:]) + "\n")
    done = run("pku-i2iqa", root, "--scores", table, "--protocol", "paper")
    assert done.exit_code == 1
    assert "1 score missing" in done.stderr
    assert "not in" in done.stderr
    assert " 15 " in done.stdout


def test_the_papers_row_stands_beside_ours(root: Path, tmp_path: Path) -> None:
    weights = head(tmp_path / "head", database="pku-i2iqa", protocol="paper")
    done = run("pku-i2iqa", root, "-m", "nr-resnet18", "--weights", weights, "-o", tmp_path / "r.csv")
    assert done.exit_code == 0, done.stderr
    for row in rows_of(tmp_path / "r.csv"):
        expected = published("paper", "nr", "resnet18", row["dimension"])
        assert expected is not None
        if not row["generator"]:
            assert (float(row["paper_srcc"]), float(row["paper_plcc"])) == expected
            assert f"{expected.srcc:.4f}" in done.stdout


def test_the_head_decides_the_split(root: Path, database: Database, tmp_path: Path) -> None:
    split = database.split("prompt-disjoint", seed=3)
    weights = head(tmp_path / "a", database="pku-i2iqa", protocol="prompt-disjoint", seed=3, split=split.digest)
    done = run("pku-i2iqa", root, "-m", "nr-resnet18", "--weights", weights, "-o", tmp_path / "r.json")
    assert done.exit_code == 0, done.stderr
    assert warnings_of(done) == []
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["protocol"], report["seed"], report["split"]) == ("prompt-disjoint", 3, split.digest)
    copied = tmp_path / "copied"
    shutil.copytree(root, copied)
    shutil.copy(copied / "Image_prompt/0.jpg", copied / "Image_prompt/1.jpg")
    other = run("pku-i2iqa", copied, "-m", "nr-resnet18", "--weights", weights, "--seed", 0, "--dimension", "quality")
    assert "WARNING: nr-resnet18 was trained on pku-i2iqa, protocol prompt-disjoint, seed 3" in other.stderr
    assert other.stderr.count("prompts that share a file under two names are kept on one side") == 1


@pytest.mark.parametrize(
    ("training", "arguments", "warning"),
    [
        ({"protocol": "paper"}, (), "its epoch was chosen on 16 of these 16 images"),
        ({"protocol": "sd"}, ("--protocol", "mj-sd"), "24 of these 32 images are among those it was trained on"),
        ({"protocol": "sd-mj"}, ("--part", "all"), "32 of these 64 images are among those it was trained on"),
        ({"protocol": "paper", "split": "ab" * 32}, (), "has another digest here"),
        ({"protocol": "paper", "split": "ab" * 32}, ("--part", "train"), ""),
        ({"protocol": "unheard-of"}, ("--protocol", "paper"), "can't be made again here"),
        ({"protocol": "paper", "database": "agiqa-3k"}, (), ""),
        ({}, (), ""),
    ],
)
def test_images_a_head_has_seen_are_warned_of(
    root: Path, tmp_path: Path, training: dict[str, str], arguments: tuple[str, ...], warning: str
) -> None:
    weights = head(tmp_path / "head", **({"database": "pku-i2iqa", **training} if training else {}))
    done = run("pku-i2iqa", root, "-m", "nr-resnet18", "--weights", weights, "--dimension", "quality", *arguments)
    assert done.exit_code == 0, done.stderr
    assert warning in done.stderr
    assert bool(warnings_of(done)) == bool(warning)
    if training.get("database") == "agiqa-3k":
        assert "protocol prompt-disjoint" in done.stdout


def test_several_heads_of_one_metric(root: Path, tmp_path: Path) -> None:
    folders = [head(tmp_path / name) for name in ("one", "two")]
    weights = [part for folder in folders for part in ("-m", "nr-resnet18", "--weights", str(folder))]
    done = run("pku-i2iqa", root, *weights, "--dimension", "quality", "-o", tmp_path / "r.csv")
    assert done.exit_code == 0, done.stderr
    labels = dict.fromkeys(row["metric"] for row in rows_of(tmp_path / "r.csv"))
    assert list(labels) == [f"nr-resnet18 ({folder})" for folder in folders]


def test_parts_and_folds(root: Path, database: Database, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    for arguments, expected in (
        (("--part", "validation"), database.split().validation),
        (("--protocol", "k-fold", "--folds", "4", "--fold", "2"), database.split("k-fold", folds=4, fold=2).test),
        (("--protocol", "sd-mj"), database.split("sd-mj").test),
    ):
        done = run("pku-i2iqa", root, "-m", "nr-lite", *arguments, "-o", report, "--quiet", "--overwrite")
        assert done.exit_code == 0, done.stderr
        assert (done.stdout, warnings_of(done)) == ("", [])
        assert json.loads(report.read_text())["samples"] == len(expected)


def test_options_of_databases(tmp_path: Path) -> None:
    both = lookalikes.write_pku_aigiqa_4k(tmp_path / "4k", prompts=3)
    done = run("pku-aigiqa-4k", both, "-m", "fr-lite", "--subset", "i2i", "--part", "all", "-o", tmp_path / "r.json")
    assert done.exit_code == 0, done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["samples"] == 24
    own = lookalikes.write_folder(tmp_path / "own", prompts=4)
    (own / "manifest.csv").rename(own / "mine.csv")
    assert run("folder", own, "--manifest", "mine.csv", "-m", "nr-lite", "--part", "all").exit_code == 0


def test_images_that_fail(root: Path, database: Database, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    tested = [copy / Path(sample.image).relative_to(root) for sample in database.split("paper").test]
    tested[0].write_bytes(b"no image")
    done = run("pku-i2iqa", copy, "-m", "nr-lite", "--protocol", "paper", "--predictions", tmp_path / "p.csv")
    assert done.exit_code == 1
    assert "1 score missing" in done.stderr
    assert tested[0].name in done.stderr
    assert [bool(row["error"]) for row in rows_of(tmp_path / "p.csv")] == [True] + [False] * 15
    for path in tested[1:]:
        path.write_bytes(b"no image")
    done = run("pku-i2iqa", copy, "-m", "nr-lite", "--protocol", "paper")
    assert done.exit_code == 1
    assert "scores of 0 of 16 images" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pku-i2i", "{root}", "-m", "nr-lite"), "did you mean 'pku-i2iqa'"),
        (("pku-i2iqa", "{root}/absent", "-m", "nr-lite"), "no such folder"),
        (("pku-i2iqa", "{root}"), "name a metric with -m"),
        (("pku-i2iqa", "{root}", "-m", "nr-light"), "unknown metric 'nr-light'; did you mean 'nr-lite'"),
        (("pku-i2iqa", "{root}", "-m", "nr-lite", "-m", "nr-lite"), "named twice"),
        (("pku-i2iqa", "{root}", "-m", "nr-lite", "--weights", "a", "--weights", "b"), "2 --weights for 1 metrics"),
        (("pku-i2iqa", "{root}", "-m", "nr-resnet18", "--weights", "./absent"), "absent"),
        (("pku-i2iqa", "{root}", "-m", "nr-lite", "--protocol", "best"), "has no protocol 'best'"),
        (("pku-i2iqa", "{root}", "-m", "nr-lite", "--fold", "1"), "has no option 'fold'"),
        (("pku-i2iqa", "{root}", "-m", "nr-lite", "--part", "all", "--seed", "1"), "leave --protocol, --seed"),
        (("pku-i2iqa", "{root}", "-m", "nr-lite", "--subset", "i2i"), "has no option 'subset'"),
        (("pku-i2iqa", "{root}", "-m", "nr-lite", "--dimension", "overall"), "nr-lite predicts quality"),
        (("pku-i2iqa", "{root}", "-m", "nr-lite", "--dimension", "beauty"), "not for beauty"),
        (("pku-i2iqa", "{root}", "-m", "nr-lite", "-o", "report.xlsx"), "ends in one of .csv, .json, .md, .tex"),
        (("pku-i2iqa", "{root}", "-m", "nr-lite", "--scores", "absent.csv"), "no such file"),
        (("pku-i2iqa", "{root}", "-m", "nr-lite", "-o", "r.csv", "--predictions", "./r.csv"), "name the same file"),
        (("pku-i2iqa", "{root}", "-m", "nr-lite", "--device", "abacus"), "--device abacus"),
        (("pku-i2iqa", "{root}", "-m", "nr-lite", "--predictions", "p.parquet"), "name a file that ends in .csv"),
        (("agiqa-3k", "{text_root}", "-m", "fr-lite"), "compares with image prompts, and these images have none"),
        (("agiqa-3k", "{text_root}", "-m", "nr-lite", "--dimension", "overall"), "not for overall"),
    ],
)
def test_usage_errors(root: Path, text_root: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(*(each.format(root=root, text_root=text_root) for each in arguments))
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
    assert done.stdout == ""


def test_without_matplotlib_nothing_is_scored(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run("pku-i2iqa", root, "-m", "nr-lite", "--plots", "plots")
    assert done.exit_code == 2
    assert "aigciqa[plot]" in done.stderr


def test_what_can_not_be_written_is_said(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("pku-i2iqa", root, "-m", "nr-lite", "-o", tmp_path / "file" / "report.md")
    assert done.exit_code == 1
    assert "can't write" in done.stderr


@pytest.fixture
def run_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, str]]:
    """Runs an example in the test's folder; returns what it wrote to standard output and error."""
    monkeypatch.chdir(tmp_path)

    def start(name: str, *arguments: object) -> tuple[str, str]:
        monkeypatch.syspath_prepend((EXAMPLES / name).parent)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with contextlib.suppress(SystemExit):
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capfd.readouterr()

    return start


PAPER_TABLES = tuple(f"paper_tables/{name}.py" for name in ("all", "sd", "mj", "sd_mj", "mj_sd"))


@pytest.mark.parametrize("name", ["agiqa_3k.py", "compare_metrics.py", *PAPER_TABLES])
def test_examples_explain_themselves(name: str, run_example: Callable[..., tuple[str, str]]) -> None:
    assert "usage:" in run_example(name, "--help")[0]
    assert "pip install" in (EXAMPLES / name).read_text()


@pytest.mark.slow
def test_metrics_of_other_libraries_are_compared(
    root: Path, tmp_path: Path, run_example: Callable[..., tuple[str, str]]
) -> None:
    run_example(
        "compare_metrics.py", "pku-i2iqa", root, "--aigciqa", "fr-lite", "--piq", "ssim", "gmsd", "--protocol", "paper",
        "--dimensions", "quality", "-o", "report.json",
    )  # fmt: skip
    report = json.loads((tmp_path / "report.json").read_text())
    found = {result["metric"]: result["srcc"]["value"] for result in report["results"]}
    assert list(found) == ["fr-lite", "piq ssim", "piq gmsd"]
    assert min(found["piq ssim"], found["piq gmsd"]) > 0.5  # of gmsd, low is good
    assert len(report["comparisons"]) == 3


@pytest.mark.slow
def test_a_table_of_the_paper_is_trained_evaluated_and_resumed(
    tmp_path: Path, run_example: Callable[..., tuple[str, str]]
) -> None:
    root = lookalikes.write_pku_i2iqa(tmp_path / "database", prompts=3)
    arguments = (
        "paper_tables/all.py", root, "--backbones", "resnet18", "--kinds", "nr", "--dimensions", "quality", "overall",
        "--joint", "--epochs", "1", "--pretrained", "none", "--device", "cpu", "-o", "table.md",
    )  # fmt: skip
    shown, said = run_example(*arguments)
    assert said.count("aigciqa train pku-i2iqa") == 1
    for dimension in ("quality", "overall"):
        row = published("paper", "nr", "resnet18", dimension)
        assert row is not None
        assert f"{row.srcc:.4f}" in shown
        assert f"{row.plcc:.4f}" in (tmp_path / "table.md").read_text()
    config = json.loads((tmp_path / "checkpoints/paper/nr-resnet18/quality,overall/config.json").read_text())
    assert config["training"]["split"] == aigciqa.load_database("pku-i2iqa", root).split("paper").digest
    again, said = run_example(*arguments)
    assert "aigciqa train" not in said
    assert again == shown


def test_scores_that_are_all_equal_are_called_so(root: Path, database: Database, tmp_path: Path) -> None:
    table = tmp_path / "other.csv"
    lines = [f"{Path(each.image).name},7,{each.scores['quality']}" for each in database.samples]
    table.write_text("image,step,good\n" + "\n".join(lines) + "\n")
    arguments = ("--part", "all", "--dimension", "quality", "-m", "step", "-m", "good")
    done = run("pku-i2iqa", root, "--scores", table, *arguments, "-o", tmp_path / "report.json", "--quiet")
    assert done.exit_code == 0
    assert "WARNING: step gives all 64 images the same quality score, 7: there is no correlation" in done.stderr
    assert "good gives" not in done.stderr
    step, good = json.loads((tmp_path / "report.json").read_text())["results"]
    assert (step["srcc"]["value"], good["srcc"]["value"]) == (None, pytest.approx(1))
    shown = run("pku-i2iqa", root, "--scores", table, *arguments)
    assert "\nNote: step gives all 64 images" in shown.stdout
    assert shown.stderr == ""  # it is said once
