"""What people expect of all commands: nothing is overwritten, errors speak of options, tables fit."""

from __future__ import annotations

import ast
import errno
import os
import re
import runpy
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import aigciqa
from aigciqa.cli.main import COMMANDS, main
from aigciqa.cli.words import in_shell_words
from aigciqa.errors import InputError, OfflineError
from aigciqa.tables.column_table import read_columns
from aigciqa.tables.text import TextTable
from aigciqa.utils.files import is_there, write_file
from aigciqa.utils.hardware import check_device

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), prog_name="aigciqa")


@pytest.fixture
def here(write_images: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `gen` of images in the current folder, a table `t.csv` of their scores and one `v.csv` of votes."""
    names = [f"{folder}/{number}.png" for folder in "ab" for number in range(3)]
    write_images("gen", *names, size=(64, 64))
    monkeypatch.chdir(tmp_path)
    rows = [f"gen/{name},,{name[0]},nr-lite,{1 + index / 2}," for index, name in enumerate(names)]
    Path("t.csv").write_text("\n".join(["image,reference,group,metric,quality,error", *rows, ""]))
    votes = [f"gen/{name},r{rater},{1 + (index + rater) % 5}" for index, name in enumerate(names) for rater in (1, 2)]
    Path("v.csv").write_text("\n".join(["image,rater,score", *votes, ""]))
    rated = [f"{name},p{index},{1 + index / 2}" for index, name in enumerate(names)]
    Path("gen/manifest.csv").write_text("\n".join(["image,prompt,quality", *rated, ""]))
    return tmp_path


#: Commands that write, without the option and name of what they write.
WRITING = {
    "score": ("score", "gen", "-m", "nr-lite"),
    "compare": ("compare", "t.csv"),
    "select": ("select", "t.csv"),
    "evaluate": ("evaluate", "folder", "gen", "-m", "nr-lite", "--part", "all"),
    "mos": ("mos", "v.csv", "--method", "mean"),
}


@pytest.mark.parametrize(
    ("command", "option", "name"),
    [
        ("score", "-o", "out.csv"), ("score", "-o", "out.json"), ("score", "--report", "out.html"),
        ("score", "--maps", "out"), ("compare", "-o", "out.md"), ("compare", "--report", "out.html"),
        ("select", "-o", "out.csv"), ("evaluate", "-o", "out.md"), ("evaluate", "--predictions", "out.csv"),
        ("evaluate", "--plots", "out"), ("mos", "-o", "out.csv"), ("mos", "--raters", "out.csv"),
    ],
)  # fmt: skip
def test_no_command_overwrites_unless_told_to(
    here: Path, monkeypatch: pytest.MonkeyPatch, command: str, option: str, name: str
) -> None:
    mine = Path(name, "mine.txt") if "." not in name else Path(name)
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with monkeypatch.context() as patched:
        patched.setattr("aigciqa.create.create_metric", lambda *_, **__: pytest.fail("something was computed"))
        done = run(*WRITING[command], option, name)
    assert done.exit_code == 2
    assert f"{option} {name} is there already: --overwrite replaces it" in done.stderr
    assert ("--resume goes on with it" in done.stderr) is (command == "score")
    assert mine.read_text() == "mine"
    done = run(*WRITING[command], option, name, "--overwrite")
    assert done.exit_code == 0, done.output
    assert mine.read_bytes() != b"mine" if "." in name else len(os.listdir(name)) > 1


def test_a_study_goes_on_and_its_export_is_not_overwritten(here: Path) -> None:
    from aigciqa.evaluation.study import Entry, create_study

    create_study("s.db", [Entry("gen/a/0.png"), Entry("gen/a/1.png")]).close()
    Path("votes.csv").write_text("mine")
    done = run("rate", "--study", "s.db", "--export", "votes.csv")
    assert (done.exit_code, "--export votes.csv is there already" in done.stderr) == (2, True)
    assert run("rate", "--study", "s.db", "--export", "votes.csv", "--overwrite").exit_code == 0
    assert Path("votes.csv").read_text().startswith("image,")


def test_a_fit_and_a_conversion_say_the_same(here: Path) -> None:
    Path("out").mkdir()
    Path("out/config.json").write_text("{}")
    for arguments in (("fit", "t.csv"), ("convert", "t.csv", "-m", "nr-resnet18", "-d", "quality")):
        done = run(*arguments, "-o", "out")
        assert (done.exit_code, "--overwrite to replace it" in done.stderr) == (2, True)


#: Command -> what it can't do without.
REQUIRED = {
    "evaluate": ("folder", "gen"), "rate": ("--study", "s.db"), "publish": ("gen", "org/name"),
    "train": ("folder", "gen", "-m", "nr-resnet18", "-o", "out"),
    "convert": ("t.csv", "-m", "nr-resnet18", "-d", "quality", "-o", "out"),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_takes_an_empty_text(here: Path, name: str) -> None:
    before = sorted(os.listdir())
    for option in command(name).params:
        if isinstance(option, click.Option) and not option.is_flag:
            done = run(name, *REQUIRED.get(name, ["t.csv"]), option.opts[0], *[""] * option.nargs)
            refused = f"Invalid value for {' / '.join(map(repr, option.opts))}: "
            assert (done.exit_code, refused in done.stderr) == (2, True), done.stderr
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("score", "gen", "--columns", ""), "'--columns': it is empty: expected FIELD,..."),
        (("score", "gen", "--columns", " , "), "'--columns': it is empty: expected FIELD,..."),
        (("score", "gen", "--group-by="), "'--group-by': it is empty: expected parent|FIELD|REGEX"),
        (("score", "gen", "-m", "nr-lite", "-m", ""), "'-m' / '--metric': it is empty: expected METRIC"),
        (("score", "gen", ""), "'IMAGE...': it is empty: expected IMAGE..."),
        (("fit", "t.csv", "-o", "new", "-d", ","), "'-d' / '--dimensions': it is empty: expected D[,D...]"),
        (("select", "t.csv", "--buckets", ""), "expected NAME=SCORE, such as great=4"),
        (("select", "t.csv", "--top", ""), "expected how many images, such as 100"),
    ],
)
def test_what_an_empty_text_should_have_been(here: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert (done.exit_code, words in " ".join(done.stderr.split())) == (2, True), done.stderr


def test_a_comma_is_a_text_where_none_parts_names(here: Path) -> None:
    done = run("score", "gen/a", "-m", "nr-lite", "--group-by", ",")
    assert (done.exit_code, "matches none of the images' paths" in done.stderr) == (0, True)


def test_what_a_killed_run_left_is_not_lost(here: Path) -> None:
    left = b'{"image": "gen/a/0.png", "reference": null, "group": null, "metric": "nr-lite", "quality": 1.0}\n'
    Path("out.json.partial").write_bytes(left)
    done = run("score", "gen", "-m", "nr-lite", "-o", "out.json")
    assert (done.exit_code, "out.json.partial is there already" in done.stderr) == (2, True)
    assert Path("out.json.partial").read_bytes() == left
    done = run("score", "gen", "-o", "out.json", "--resume", "--overwrite")
    assert (done.exit_code, "--resume and --overwrite: give one of them" in done.stderr) == (2, True)


def test_of_what_is_there_only_content_counts(tmp_path: Path) -> None:
    (tmp_path / "full").write_text("x")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "full")
    names = ("full", "empty", "folder", "link", "none")
    assert [name for name in names if is_there(tmp_path / name)] == ["full", "link"]
    assert is_there(tmp_path)
    assert not any(map(is_there, ("/dev/null", "/dev/stdout")))
    assert [is_there(f"file://{tmp_path}/{name}") for name in ("full", "folder", "none")] == [True, False, False]
    assert is_there(f"file://{tmp_path}")


def test_into_a_pipe_it_is_written(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    assert not is_there(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write_file(pipe, b"rows")
    reader.join()
    assert (found, pipe.is_fifo()) == ([b"rows"], True)


# Words


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """The parts of a module's strings that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented)
            and node.body and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def test_messages_have_no_python_but_between_backticks() -> None:
    """What a command turns into its options; text that is Python's own, as in a model card, is left out."""
    names = "weights|device|references?|metric|overwrite|resume|dimensions?|score_ranges?|cache_dir|folds?|subset"
    spelled = re.compile(rf"(?<![`\w-])({names})=")
    of_python = {"checkpoints/card.py", "training/lite/cards.py", "metric.py"}
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted((ROOT / "aigciqa").rglob("*.py"))
        if path.relative_to(ROOT / "aigciqa").as_posix() not in of_python
        for line, text in strings(path)
        if spelled.search(text)
    ]
    assert not found, "\n".join(found)


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("score", "take `weights='org/name'`", "take --weights org/name"),
        ("score", "`weights='./my folder'`", "--weights './my folder'"),
        ("score", "pass `references=`", "pass --reference"),
        ("score", "`resume=True` or `overwrite=True`", "--resume or --overwrite"),
        ("fit", "`references=FOLDER`, `metric='nr-lite'`", "--reference FOLDER, --metric nr-lite"),
        ("fit", "name it: `dimensions=['a', 'b']`", "name it: --dimensions a,b"),
        ("evaluate", "name it: `dimensions=['a']`", "name it: --dimension a"),
        ("mos", "such as `scale=(0, 100)`", "such as --scale 0 100"),
        ("train", "`weights='no'` is a file", "--start no is a file"),
        ("mos", "`weights='x'` stays", "`weights='x'` stays"),
        ("score", "out/seed=3,weights=2.png", "out/seed=3,weights=2.png"),
    ],
)
def test_arguments_are_said_as_options(name: str, text: str, words: str) -> None:
    assert in_shell_words(text, command(name)) == words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("score", "gen", "--device", "gpu"), "--device gpu: expected cpu, cuda, cuda:1 or mps. Did you mean cuda?"),
        (("score", "gen", "--device", "cdua"), "Did you mean cuda?"),
        (("score", "gen", "--engine", "ray", "-o", "t.parquet", "--device", "gpu"), "--device gpu: expected cpu"),
        (("score", "gen", "--device", "CPU"), "Did you mean cpu?"),
        (("score", "gen", "--weights", "t.csv"), "--weights t.csv is a file, and a checkpoint is a folder"),
        (("score", "gen", "--weights", "best.pt"), "aigciqa convert makes one of a .pt file"),
        (("score", "gen", "--weights", "nowhere"), "--weights nowhere: no such folder"),
        (("score", "gen", "--maps", "t.csv"), "--maps t.csv is a file; name a folder"),
        (("score", "gen", "-o", "gen"), "-o gen is a folder; name a file"),
        (("evaluate", "folder", "gen", "-m", "nr-lite", "--plots", "t.csv"), "--plots t.csv is a file; name a folder"),
        (("score", "nope.png"), "nope.png: no such file or folder"),
        (("score", "nope", "no/where.png"), "nope, no/where.png: no such file or folder"),
        (("fit", "t.csv", "-o", "o", "--device", "gpu"), "--device gpu: expected cpu"),
        (("fit", "t.csv", "-o", "o", "-m", "nr-resnet18", "--score-range", "5"), "expected LOW,HIGH"),
        (
            ("select", "t.csv", "--top", "0.1"),
            "'0.1': expected how many images, such as 100; for a score, there is --min",
        ),
        (("select", "t.csv", "--bottom", "0"), "'0': expected how many images"),
        (
            ("evaluate", "folder", "gen", "-m", "nr-lite", "--score-range", "4,5"),
            "the score range of 'quality' is 4 to 5",
        ),
        (("evaluate", "folder", "own.csv", "-m", "nr-lite"), "or another that --dimension names)"),
        (("evaluate", "folder", "own.csv", "-m", "nr-lite", "--dimension", "own"), "name the column of ratings"),
    ],
)
def test_usage_errors(here: Path, arguments: tuple[str, ...], words: str) -> None:
    Path("best.pt").touch()
    rows = [f"gen/{folder}/{number}.png,3" for folder in "ab" for number in range(3)]
    Path("own.csv").write_text("\n".join(["image,own", *rows, ""]))
    done = run(*arguments)
    assert (done.exit_code, words in " ".join(done.stderr.split())) == (2, True), done.stderr


def test_devices_that_are_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="this torch has no CUDA: take cpu"):
        check_device("cuda")
    with pytest.raises(InputError, match="no mps here, which only Macs"):
        check_device("mps")
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    with pytest.raises(InputError, match="torch finds no GPU here"):
        check_device("cuda:0")
    check_device("cuda", is_here=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device("cuda:1")
    with pytest.raises(InputError, match="the last GPU here is cuda:1"):
        check_device("cuda:2")


def test_of_the_papers_metrics_it_is_said_first_that_no_weights_are_published(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AIGCIQA_HUB_ORG", raising=False)
    with pytest.raises(
        OfflineError, match=r"^No weights of fr-resnet50 are published yet: .*\nWays out: the metric fr-lite"
    ):
        aigciqa.create_metric("fr-resnet50", cache_dir=tmp_path, local_files_only=True)
    monkeypatch.setenv("AIGCIQA_HUB_ORG", "other")
    with pytest.raises(OfflineError, match=r"^the weights 'other/fr-resnet50'"):
        aigciqa.create_metric("fr-resnet50", cache_dir=tmp_path, local_files_only=True)
    lines = run("score", "--list").stdout.splitlines()
    assert lines[0] == "No weights of the paper's ten metrics are published yet."


# What is said of a run


def test_a_missing_file_beside_others_is_a_row(here: Path) -> None:
    done = run("score", "nope.png", "gen/a/0.png", "-m", "nr-lite")
    assert (done.exit_code, len(done.stdout.splitlines())) == (1, 3)


def test_a_group_that_nothing_matches_is_warned_of(here: Path) -> None:
    done = run("score", "gen", "-m", "nr-lite", "--group-by", "model-(.+)")
    assert done.exit_code == 0
    assert "--group-by model-(.+) matches none of the images' paths: there are no groups" in done.stderr
    assert "matches none" not in run("score", "gen", "-m", "nr-lite", "--group-by", "gen/(b)").stderr


def test_the_summary_says_the_scale_and_begins_with_the_best() -> None:
    images = EXAMPLES / "images"
    done = run("score", images / "generated", "-r", images / "prompts", "--group-by", "parent")
    said, scale, header, *rows = done.stderr.splitlines()
    assert said == "aigciqa score: scoring with fr-lite: there are references"
    assert scale == "quality: 0 to 5, higher is better"
    assert header.split() == ["metric", "group", "n", "failed", "quality", "(95%", "CI)"]
    groups, means = zip(*((row.split()[1], float(row.split()[4])) for row in rows), strict=True)
    assert groups == ("faithful", "jpeg10", "noisy", "smoothed", "upsampled", "blurred")
    assert list(means) == sorted(means, reverse=True)
    assert f"\n{chr(10).join([scale, header, *rows])}\n" in (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def test_one_row_is_one_row(here: Path) -> None:
    assert "1 row in one.csv" in run("score", "gen/a/0.png", "-m", "nr-lite", "-o", "one.csv").stderr


def test_selecting_shows_scores(here: Path) -> None:
    assert run("select", "t.csv", "--top", "2").stdout == "gen/b/2.png\ngen/b/1.png\n"
    assert run("select", "t.csv", "--top", "2", "--scores").stdout == "3.500\tgen/b/2.png\n3.000\tgen/b/1.png\n"
    done = run("select", "t.csv", "--top", "1", "--to", "best")
    assert done.stdout == "3.500 copy: gen/b/2.png -> best/b/2.png\n"


class TestWidth:
    TABLE = TextTable(
        "Wide", ("metric", "group", "n", "first", "second"),
        (("nr-lite", "a" * 30, "3", "4.163 [4.094, 4.288]", "4.163 [4.094, 4.288]"), ("nr-lite", "b", "3", "-", "-")),
        left=2,
    )  # fmt: skip

    @pytest.mark.parametrize("width", [60, 80, 100])
    def test_numbers_that_do_not_fit_stand_below(self, width: int) -> None:
        text = self.TABLE.aligned(width)
        assert max(map(len, text.splitlines())) <= width
        assert text.split().count("[4.094,") == 2
        assert text.count("metric") == {60: 3, 80: 2, 100: 1}[width]

    def test_names_lose_their_middle_unless_two_become_one(self) -> None:
        text = self.TABLE.aligned(44)
        assert max(map(len, text.splitlines())) <= 44
        assert "…" in text
        same = TextTable("Same", ("name", "n"), (("a" * 20 + "1" + "a" * 20, "1"), ("a" * 20 + "2" + "a" * 20, "2")), 1)
        assert "…" not in same.aligned(20)

    def test_of_commands(self, here: Path) -> None:
        names = ["a-very-long-name-of-a-generator-that-somebody-chose", "another-one-that-is-long-too"]
        rows = Path("t.csv").read_text()
        Path("long.csv").write_text(rows.replace(",a,", f",{names[0]},").replace(",b,", f",{names[1]},"))
        for arguments in (WRITING["evaluate"], WRITING["mos"], ("compare", "long.csv"), ("score", "--list")):
            done = run(*arguments)
            tables = [line for line in done.stdout.splitlines() if "  " in line.strip()]
            assert tables
            assert max(map(len, tables)) <= 80, done.stdout


# Tables, disks and examples


def test_decimal_commas_are_sure_where_semicolons_part_cells(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("image;quality\na.png;3,125\nb.png;4,250\n")
    assert read_columns(path, ["image"]).numbers("quality") == [3.125, 4.25]
    path.write_text('image,quality\na.png,"3,125"\nb.png,"4,250"\n')
    assert np.isnan(read_columns(path, ["image"]).numbers("quality")).all()


def test_where_a_study_can_not_be_written(here: Path) -> None:
    done = run("rate", "gen", "--study", "t.csv/s.db", "--no-browser")
    assert (done.exit_code, "Error: can't write " in done.stderr) == (1, True)
    assert isinstance(done.exception, SystemExit)


def test_a_full_disk_is_said_so(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "o/model.safetensors")

    monkeypatch.setattr("aigciqa.training.fit.fit.fit_head", full)
    done = run("fit", "t.csv", "-o", "o")
    assert done.exit_code == 1
    assert "can't write o/model.safetensors: the disk is full: make room, and run the same command again" in done.stderr


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("train_on_your_ratings.py", ("nope.csv", "--output", "x")),
        ("compare_metrics.py", ("folder", "nope")),
        ("train_lite.py", ("--photos", "nope")),
        ("paper_tables/all.py", ("nope",)),
    ],
)
def test_examples_end_without_a_traceback(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.syspath_prepend(str((EXAMPLES / name).parent))
    threads = torch.get_num_threads()
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    finally:
        torch.set_num_threads(threads)  # which train_lite.py changes
    assert str(ended.value.code).startswith("error: ")


def test_few_images_have_no_correlations(here: Path) -> None:
    done = run(*WRITING["evaluate"])
    assert done.exit_code == 0
    assert "correlations of fewer than 10 images are left out" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("nr-lite"))
    assert row.split()[:4] == ["nr-lite", "quality", "6", "n/a"]


def test_a_logistic_that_is_a_step_is_left_out() -> None:
    from aigciqa.evaluation import Predictions, evaluate, fit_logistic, text

    scores = np.arange(20.0)
    ratings = np.where(scores < 10, 2.0, 3.0) + 0.2 * np.random.default_rng(0).normal(size=20)  # two clusters
    assert fit_logistic(scores, ratings) is None
    assert fit_logistic(scores, 1 / (1 + np.exp(-(scores - 9) / 3))) is not None
    samples = [
        aigciqa.Sample(f"/{n}.png", None, None, None, str(n), {"quality": each}) for n, each in enumerate(ratings)
    ]
    found = evaluate(Predictions("mine", {"quality": scores}, (None,) * 20), samples)
    assert ["mine to quality did not converge" in note for note in found.notes] == [True]
    assert "did not converge" in text.to_terminal(found)
    assert "n/a" not in text.to_terminal(found).split("PLCC")[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits(name: str) -> None:
    assert max(map(len, run(name, "--help").stdout.splitlines())) <= 80
