"""`aigciqa rate`: what it makes of its arguments, what it goes on with, what it refuses, what it prints."""

from __future__ import annotations

import csv
import re
import socket
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aigciqa.cli.common import Terminated
from aigciqa.cli.main import main
from aigciqa.evaluation.study import Study, StudySettings, open_study, read_votes, server, web
from aigciqa.utils.files import locked

Write = Callable[..., list[str]]
Rate = Callable[..., Result]


@pytest.fixture
def rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rate:
    """`aigciqa rate --study study.db`, whose server is stopped at once; in the folder of the images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(web, "serve", lambda app, listening: None)

    def run(*arguments: str) -> Result:
        given = ["rate", *arguments, "--study", "study.db", "--no-browser", "--port", "0"]
        return CliRunner().invoke(main, given, prog_name="aigciqa", catch_exceptions=False)

    return run


def stored(query: str) -> list[tuple[Any, ...]]:
    with open_study("study.db") as study, study.reading() as database:
        decoded = [tuple(row) for row in database.execute(query)]
    return [tuple(cell.decode() if isinstance(cell, bytes) else cell for cell in row) for row in decoded]


def items() -> list[tuple[Any, ...]]:
    return stored(
        "SELECT items.kind, image.name, other.name, reference.name, prompt FROM items "
        "JOIN pictures AS image ON image.id = image LEFT JOIN pictures AS other ON other.id = other "
        "LEFT JOIN pictures AS reference ON reference.id = reference ORDER BY items.id"
    )


def vote(study: Study, rater: int, score: float = 4) -> None:
    step = study.step(rater)
    assert study.vote(rater, f"key-{rater}-{step.slot}-{step.question}", step.slot or 0, step.question or "", score)[0]


def test_a_folder_becomes_a_study_which_goes_on(rate: Rate, write_images: Write) -> None:
    write_images("outputs", "a.png", "sub/b.png")
    done = rate("outputs")
    assert done.exit_code == 0
    assert re.search(r"^rate here: http://127\.0\.0\.1:\d+/r/[\w-]{22}$", done.stdout, re.MULTILINE)
    assert re.search(r"^the study's page, for you alone: http://127\.0\.0\.1:\d+/admin/[\w-]{22}$", done.stdout, re.M)
    assert items() == [("rated", "outputs/a.png", None, None, None), ("rated", "outputs/sub/b.png", None, None, None)]
    link = re.search(r"/r/(\S+)", done.stdout)
    for again in (rate("outputs"), rate()):
        assert re.search(r"/r/(\S+)", again.stdout)[1] == link[1]  # type: ignore[index]
    with open_study("study.db") as study:
        assert study.settings == StudySettings()
        assert len(study.raters()) == 1


def test_prompts_come_as_for_score(rate: Rate, write_images: Write, tmp_path: Path) -> None:
    write_images("outputs", "a.png", "b.png")
    write_images("prompts", "a.png", "b.png")
    assert rate("outputs", "-r", "prompts", "-q", "correspondence").exit_code == 0
    assert [row[1:4:2] for row in items()] == [(f"outputs/{n}.png", f"prompts/{n}.png") for n in "ab"]
    Path("study.db").unlink()
    rows = ("image,prompt,group,generator", "outputs/a.png,a cat,pets,sd", "outputs/b.png,a dog,pets,sd")
    Path("list.csv").write_text("\n".join(rows))
    assert rate("list.csv", "-r", "prompts", "-q", "correspondence").exit_code == 0
    assert [row[4] for row in items()] == ["a cat", "a dog"]
    with open_study("study.db") as study:
        vote(study, 1)
    (one,) = read_votes("study.db")
    assert (one.reference, one.group, one.generator) == (f"prompts/{Path(one.image).name}", "pets", "sd")
    assert one.prompt in ("a cat", "a dog")
    rate("--export", "votes.csv")
    header = "image,rater,question,score,kind,reference,prompt,group,generator,seconds,at\n"
    assert Path("votes.csv").read_text().startswith(header)
    Path("study.db").unlink()
    refused = rate("outputs", "-q", "correspondence")
    assert refused.exit_code == 2
    assert "correspondence asks about the prompt, and 2 of 2 images have none" in refused.stderr
    assert not Path("study.db").exists()


def test_settings_of_the_command_line(rate: Rate, write_images: Write) -> None:
    write_images("outputs", "a.png", "b.png")
    write_images("prompts", "a.png", "b.png")
    Path("how.txt").write_text("Look closely.\n")
    done = rate(
        "outputs", "-r", "prompts", "--method", "slider", "-q", "quality", "-q", "mood=How happy?", "--prompt-for",
        "mood", "--labels", "a, b,c,d,e", "--instructions", "how.txt", "--repeats", "2", "--votes-per-image", "5",
        "--images-per-rater", "20", "--break-every", "0", "--size", "600",
    )  # fmt: skip
    assert done.exit_code == 0
    with open_study("study.db") as study:
        chosen = study.settings
    assert (chosen.method, chosen.labels, chosen.instructions) == ("slider", ("a", "b", "c", "d", "e"), "Look closely.")
    assert (chosen.repeats, chosen.votes_per_image, chosen.images_per_rater) == (2, 5, 20)
    assert (chosen.break_every, chosen.size) == (0, 600)
    assert [(each.name, each.text, each.with_prompt) for each in chosen.questions] == [
        ("quality", "How good is the quality of this picture?", False),
        ("mood", "How happy?", True),
    ]


def test_training_and_gold_images_are_set_apart(rate: Rate, write_images: Write) -> None:
    write_images("outputs", "a.png", "b.png", "c.png")
    write_images("training", "t.png")
    Path("gold.csv").write_text("image,quality\noutputs/c.png,1\n")
    assert rate("outputs", "--training", "training", "--gold", "gold.csv").exit_code == 0
    assert [row[:2] for row in items()] == [
        ("rated", "outputs/a.png"), ("rated", "outputs/b.png"), ("training", "training/t.png"),
        ("gold", "outputs/c.png"),
    ]  # fmt: skip
    assert stored("SELECT question, score FROM expected") == [("quality", 1.0)]


def test_pairs_are_of_one_prompt(rate: Rate, write_images: Write) -> None:
    for folder in ("x", "y", "z"):
        write_images(folder, "1.png", "2.png")
    assert rate("x", "y", "z", "--method", "pairs").exit_code == 0
    assert [row[1:3] for row in items()] == [
        (f"{one}/{n}.png", f"{two}/{n}.png") for n in (1, 2) for one, two in ("xy", "xz", "yz")
    ]
    Path("study.db").unlink()
    Path("list.csv").write_text("image,prompt\nx/1.png,cat\ny/2.png,cat\nz/1.png,dog\n")
    assert rate("list.csv", "--method", "pairs").exit_code == 0
    assert [row[1:3] for row in items()] == [("x/1.png", "y/2.png")]
    Path("study.db").unlink()
    refused = rate("x", "--method", "pairs")
    assert refused.exit_code == 2
    assert "no two images of one prompt" in refused.stderr
    assert "(aigciqa score --columns prompt writes one)" in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("outputs", "-q", "mood"), "only quality, authenticity and correspondence have a text already"),
        (("outputs", "-q", "image=What?"), "can't be called 'image'"),
        (("outputs", "--prompt-for", "mood"), "there is no such question; there are quality"),
        (("outputs", "--size", "big"), "--size is native or a number of pixels; got 'big'"),
        (("outputs", "--labels", "good,bad"), "labels are five"),
        (("outputs", "--instructions", "gone.txt"), "--instructions gone.txt: No such file"),
        (("outputs", "--gold", "none.csv"), "has no score; a column is expected for one question at least: quality"),
        (("outputs", "--gold", "wild.csv"), "from 1 to 5; got quality 11"),
        (("outputs", "--gold", "twice.csv"), "--gold twice.csv: two rows of outputs/a.png"),
        (("outputs", "--gold", "words.csv"), "--gold words.csv: outputs/a.png: 'good' is not a finite number"),
        (("outputs", "--gold", "outputs"), "--gold outputs: expected a table that ends in one of .csv"),
        (("empty",), "no images in empty"),
        (("packed.tar",), "is inside an archive: unpack it"),
        (("--export", "votes.csv"), "no such study; name images to make it"),
        (("--delete-rater", "r1"), "no such study"),
        ((), "no such study"),
        (("outputs", "--url", "rate.example"), "--url rate.example: expected http:// or https:// and a host"),
        (("outputs", "--url", "https://rate.example/sub"), "expected http:// or https:// and a host"),
        (("outputs", "--url", "http://[::1"), "expected http:// or https:// and a host"),
        (("outputs", "--url", "http://rate.example:99999"), "expected http:// or https:// and a host"),
        (("outputs", "--size", "9" * 10), "--size is native or a number of pixels"),
    ],
)
def test_what_is_refused(rate: Rate, write_images: Write, arguments: tuple[str, ...], why: str) -> None:
    write_images("outputs", "a.png", "b.png")
    Path("empty").mkdir()
    Path("none.csv").write_text("image,mood\noutputs/a.png,1\n")
    Path("wild.csv").write_text("image,quality\noutputs/a.png,11\n")
    Path("twice.csv").write_text("image,quality\noutputs/a.png,1\noutputs/a.png,5\n")
    Path("words.csv").write_text("image,quality\noutputs/a.png,good\n")
    with tarfile.open("packed.tar", "w") as archive:
        archive.add("outputs/a.png")
    done = rate(*arguments)
    assert done.exit_code == 2
    assert why in done.stderr
    assert not Path("study.db").exists()


def test_images_that_are_missing_are_named_and_left_out(rate: Rate, write_images: Write) -> None:
    write_images("outputs", "a.png")
    Path("list.csv").write_text("image\noutputs/a.png\n" + "".join(f"gone{number}.png\n" for number in range(7)))
    done = rate("list.csv")
    assert done.exit_code == 0
    assert "gone0.png: no such file" in done.stderr
    assert "gone6.png" not in done.stderr
    assert "7 images left out" in done.stderr
    assert len(items()) == 1


def test_a_study_keeps_its_settings_and_images(rate: Rate, write_images: Write) -> None:
    write_images("outputs", "a.png")
    rate("outputs")
    write_images("outputs", "b.png")
    for arguments, why in (
        (("outputs",), "a study of other images or settings"),
        (("outputs/a.png", "--method", "slider"), "a study of other images or settings"),
        (("--repeats", "2"), "leave --repeats out"),
        (("-q", "authenticity"), "leave --question out"),
        (("-r", "outputs"), "leave --reference out"),
    ):
        done = rate(*arguments)
        assert done.exit_code == 2
        assert why in done.stderr
    assert len(items()) == 1


def test_what_is_no_study_is_not_written_over(rate: Rate, write_images: Write) -> None:
    write_images("outputs", "a.png")
    for content in ("a thesis", ""):
        Path("study.db").write_text(content)
        for arguments in (("outputs",), (), ("--export", "votes.csv")):
            done = rate(*arguments)
            assert done.exit_code == 2
            assert "no study of aigciqa rate" in done.stderr
        assert Path("study.db").read_text() == content
    done = rate("outputs", "--export", "outputs/a.png")
    assert "would overwrite" in done.stderr


def test_two_servers_on_one_study_refuse_each_other(rate: Rate, write_images: Write) -> None:
    write_images("outputs", "a.png")
    rate("outputs")
    with locked("study.db"):
        for arguments in (("outputs",), (), ("--delete-rater", "r1")):
            done = rate(*arguments)
            assert done.exit_code == 2
            assert "is being written by another run" in done.stderr
        assert rate("--export", "votes.csv").exit_code == 0  # reading needs no lock


def test_links_for_others(rate: Rate, write_images: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images("outputs", "a.png")
    done = rate("outputs", "--invite", "2", "--anonymous", "--url", "https://rate.example/")
    lines = [line.partition(": ") for line in done.stdout.splitlines()]
    assert [who for who, _, _ in lines] == ["r1", "r2", "for all", "the study's page, for you alone"]
    assert all(re.fullmatch(r"https://rate\.example/(r|join|admin)/[\w-]{22}", link) for _, _, link in lines)
    monkeypatch.setattr(socket, "gethostname", lambda: "studio")
    assert "http://studio:" in rate("--host", "0.0.0.0").stdout
    named = ["rate", "--study", "study.db", "--no-browser", "--port", "0", "--url", "https://質.example"]
    in_pipe = CliRunner(charset="cp1252").invoke(main, named, catch_exceptions=False)  # of Windows
    assert "https://質.example/admin/" in in_pipe.stdout_bytes.decode()


def test_the_link_of_another_rater_is_never_ones_own(rate: Rate, write_images: Write) -> None:
    write_images("outputs", "a.png")
    rate("outputs", "--invite", "1")
    again = rate()
    assert "rate here" not in again.stdout
    assert "the study's page" in again.stdout
    with open_study("study.db") as study:
        assert [rater.name for rater in study.raters()] == ["r1"]
        own = study.invite("you")
    assert f"/r/{own.secret}\n" in rate().stdout


def test_a_name_that_is_no_study_leaves_no_folder(rate: Rate, tmp_path: Path) -> None:
    for more in ([], ["--delete-rater", "r1"]):
        done = CliRunner().invoke(main, ["rate", "--study", "new/study.db", *more], prog_name="aigciqa")
        assert (done.exit_code, "no such study" in done.stderr) == (2, True)
    assert not Path("new").exists()


def test_a_page_opens_in_the_browser(rate: Rate, write_images: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images("outputs", "a.png")
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    for extra in ([], ["--invite", "1"]):
        given = ["rate", "outputs", "--study", "study.db", "--port", "0", *extra]
        assert CliRunner().invoke(main, given, prog_name="aigciqa").exit_code == 0
    assert ["/r/" in opened[0], "/admin/" in opened[1]] == [True, True]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Terminated])
def test_a_signal_is_how_it_ends(
    rate: Rate, write_images: Write, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    def interrupt(*_: object) -> None:
        raise stop

    write_images("outputs", "a.png")
    monkeypatch.setattr(web, "serve", interrupt)
    done = rate("outputs")
    assert done.exit_code == 0
    assert "every vote is in study.db: aigciqa rate --study study.db goes on" in done.stderr


@pytest.mark.parametrize("package", ["starlette.applications", "uvicorn", "jinja2"])
def test_without_the_extra_it_says_what_to_install(
    rate: Rate, write_images: Write, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    write_images("outputs", "a.png")
    for module in (server, web):
        monkeypatch.delitem(sys.modules, module.__name__)
    monkeypatch.setitem(sys.modules, package, None)
    done = rate("outputs")
    assert done.exit_code == 2
    assert "pip install 'aigciqa[rate]'" in done.stderr
    assert not Path("study.db").exists()


@pytest.mark.parametrize("name", ["x" * 252, "x" * 299, f"new/{'x' * 299}"])
def test_a_study_is_named_so_that_its_files_can_be(write_images: Write, tmp_path: Path, name: str) -> None:
    write_images("outputs", "a.png")
    done = CliRunner().invoke(main, ["rate", str(tmp_path / "outputs"), "--study", str(tmp_path / name)])
    assert done.exit_code == 2
    assert "the name is too long for this system; choose a shorter one" in " ".join(done.stderr.split())


def test_export_and_deleting_a_rater(rate: Rate, write_images: Write) -> None:
    write_images("outputs", "a.png", "=b.png")
    rate("outputs", "--invite", "2")
    with open_study("study.db") as study:
        for rater in (1, 1, 2):
            vote(study, rater)
    done = rate("--export", "votes.csv")
    assert (done.exit_code, done.stderr) == (0, "3 votes in votes.csv\n")
    with open("votes.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["rater"], row["question"], row["score"]) for row in rows] == [
        ("r1", "quality", "4"), ("r1", "quality", "4"), ("r2", "quality", "4")
    ]  # fmt: skip
    assert {row["image"] for row in rows} == {"outputs/a.png", "outputs/=b.png"}
    done = rate("--delete-rater", "r1")
    assert (done.exit_code, done.stderr) == (0, "r1 and all votes of r1 are deleted from study.db\n")
    assert [each.rater for each in read_votes("study.db")] == ["r2"]
    done = rate("--export", "again.csv", "--delete-rater", "r2")
    assert (done.exit_code, "give one of them" in done.stderr) == (2, True)
    for wrong, why in (
        ("r1", "there is no rater r1"), ("Ann", "such as r3; got 'Ann'"), ("9" * 19, "such as r3; got '999")
    ):  # fmt: skip
        done = rate("--delete-rater", wrong)
        assert done.exit_code == 2
        assert why in done.stderr
