"""What belongs together: images and references, images of two groups, samples and rows. Never the wrong two."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigciqa.compare.groups import Group, match
from aigciqa.databases import Sample
from aigciqa.evaluation import PrecomputedScores
from aigciqa.records import Item
from aigciqa.scoring.items import Found
from aigciqa.scoring.matching import references_from
from aigciqa.utils.paths import absolute
from tests.conftest import call_command
from tests.test_cli import table
from tests.test_compare import row, run

Write = Callable[..., list[str]]

NAME = "café crème"
NFC, NFD = (unicodedata.normalize(form, NAME) for form in ("NFC", "NFD"))


def touch(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder)


def paired(images: Sequence[str], references: str, *, is_listed: bool = True) -> dict[str, str | None]:
    """Image -> its reference below the folder; None: an error."""
    found = [Found(Item(f"gen/{name}"), name) for name in images]
    give = references_from(references)(found if is_listed else None)
    items = {each.relative: give(each) for each in found}
    assert all((item.reference is None) == (item.reference_error is not None) for item in items.values())
    return {
        name: item.reference and os.path.relpath(item.reference, references).replace(os.sep, "/")
        for name, item in items.items()
    }


class TestReferences:
    @pytest.mark.parametrize(
        ("images", "references", "expected"),
        [
            (["a/1.png"], ["a/1.png", "a/1.jpg", "1.png"], ["a/1.png"]),
            (["a/1.png"], ["a/1.jpg", "1.png"], ["a/1.jpg"]),
            (["a/1.png"], ["a/1.jpg", "a/1.bmp"], [None]),
            (["a/1.png", "a/2.png"], ["b/1.jpg", "c/2.png"], ["b/1.jpg", "c/2.png"]),
            (["a/1.png", "b/1.png"], ["a/1.png"], ["a/1.png", None]),  # its own is missing
            (["a/1.png", "b/2.png"], ["a/1.png", "c/2.png"], ["a/1.png", None]),  # the trees correspond by path
            (["b/1.png", "a/2.png"], ["a/1.png", "a/2.jpg"], [None, "a/2.jpg"]),  # whatever comes first
            (["a/1.png", "b/1.png", "a/2.png"], ["c/1.png", "c/2.png"], [None, None, "c/2.png"]),  # whose is it?
            (["a/1.png", "b/1.png", "2.png"], ["1.jpg", "2.png"], ["1.jpg", "1.jpg", "2.png"]),  # many share a prompt
            (["a/1.png"], ["1.jpg", "1.bmp"], [None]),
            (["a/1.png", "a/2.png"], ["b/1.png", "c/1.jpg", "c/2.png"], [None, "c/2.png"]),
            (["./a/1.png"], ["a/1.png"], ["a/1.png"]),
            ([f"{NFC}/{NFD}.png"], [f"{NFD}/{NFC}.png"], [f"{NFD}/{NFC}.png"]),
            ([f"a/{NFC}.png"], [f"b/{NFD}.jpg"], [f"b/{NFD}.jpg"]),
        ],
    )  # fmt: skip
    def test_by_relative_path_or_else_by_a_stem_that_is_unique_on_both_sides(
        self, images: list[str], references: list[str], expected: list[str | None], tmp_path: Path
    ) -> None:
        assert paired(images, touch(tmp_path / "ref", *references)) == dict(zip(images, expected, strict=True))

    def test_stems_are_not_tried_where_images_can_not_be_listed_before(self, tmp_path: Path) -> None:
        references = touch(tmp_path / "ref", "a/1.png", "b/2.png")
        assert paired(["a/1.png", "2.png"], references, is_listed=False) == {"a/1.png": "a/1.png", "2.png": None}
        images = [Found(Item("gen/2.png"), "2.png"), Found(Item("gen.tar"), "gen.tar", is_archive=True)]
        assert references_from(references)(images)(images[0]).reference is None

    def test_an_image_that_is_named_twice_is_one(self, tmp_path: Path) -> None:
        assert paired(["a/1.png", "a/1.png"], touch(tmp_path / "ref", "b/1.png")) == {"a/1.png": "b/1.png"}

    def test_those_that_bring_their_reference_decide_nothing(self, tmp_path: Path) -> None:
        images = [Found(Item("x.png", reference="mine.png"), "b/1.png"), Found(Item("y.png"), "a/1.png")]
        give = references_from(touch(tmp_path / "ref", "b/1.png"))(images)
        assert [give(each).reference for each in images] == ["mine.png", str(tmp_path / "ref" / "b" / "1.png")]

    def test_the_listing_ends_at_the_first_that_matches_by_path(self, tmp_path: Path) -> None:
        listing = iter([Found(Item("gen/1.png"), "1.png"), Found(Item("gen/2.png"), "2.png")])
        references_from(touch(tmp_path / "ref", "1.png", "a/2.png"))(listing)
        assert next(listing).relative == "2.png"

    @pytest.mark.parametrize(
        ("references", "words"),
        [
            (["a/1.jpg", "a/1.bmp"], "several references in {ref} have its relative path: a/1.bmp, a/1.jpg"),
            (["b/1.png", "c/1.png"], "no reference in {ref} has its relative path 'a/1.png'. "),
            (["b/1.png", "c/1.png"], "Only the stem is that of b/1.png, c/1.png, and stems count only where"),
            (["2.png"], "no reference in {ref} has its relative path or its stem"),
            ([f"{n}/1.png" for n in range(9)], " and 4 more, and stems count only where"),
        ],
    )  # fmt: skip
    def test_an_error_names_the_candidates(self, references: list[str], words: str, tmp_path: Path) -> None:
        ref = touch(tmp_path / "ref", *references)
        found = Found(Item("gen/a/1.png"), "a/1.png")
        error = references_from(ref)([found])(found).reference_error
        assert error is not None
        assert error.startswith("gen/a/1.png: ")
        assert words.format(ref=ref) in error

    def test_no_other_folders_reference_is_taken_by_the_commands(self, write_images: Write, tmp_path: Path) -> None:
        names = ["set1/001.png", "set1/002.png", "set2/001.png", "set2/002.png"]
        write_images("gen", *names)
        write_images("ref", *(name for name in names if name != "set2/001.png"))
        done = call_command("gen", "-r", "ref", cwd=tmp_path)
        assert done.returncode == 1
        found = {each["image"]: (each["reference"], each["error"]) for each in table(done.stdout)}
        assert found["gen/set1/001.png"] == ("ref/set1/001.png", "")
        assert found["gen/set2/001.png"][0] == ""
        assert "stem is that of set1/001.png" in found["gen/set2/001.png"][1]
        piped = call_command("-", "-r", "ref", cwd=tmp_path, stdin=b"gen/set1/001.png\n")
        assert piped.returncode == 1
        assert "stem is that of set1/001.png" in table(piped.stdout)[0]["error"]

    def test_every_group_of_compare_is_a_tree_of_its_own(self, write_images: Write, tmp_path: Path) -> None:
        folders = []
        for group in ("one", "other"):
            write_images(group, "x/1.png", "x/2.png", "x/3.png")
            folders.append(str(tmp_path / group))
        write_images("ref", "y/1.png", "y/2.png", "z/3.png")
        done = run(*folders, "-r", str(tmp_path / "ref"), "--format", "json")
        assert done.exit_code == 0, done.stderr
        assert '"matched_by": "reference"' in done.stdout


NAMES = st.builds(
    posixpath.join, st.sampled_from(["", "a", "b"]), st.sampled_from(["1.png", "1.jpg", "2.png", "3.png"])
)


@settings(deadline=None, max_examples=60)
@given(st.sets(NAMES, min_size=1), st.sets(NAMES, min_size=1))
def test_a_reference_is_of_the_same_path_or_the_only_one_of_its_stem(
    tmp_path_factory: pytest.TempPathFactory, images: set[str], references: set[str]
) -> None:
    def stem(name: str) -> str:
        return Path(name).stem

    def bare(names: Iterable[str]) -> set[str]:
        return {os.path.splitext(name)[0] for name in names}

    ordered = sorted(images)
    found = paired(ordered, touch(tmp_path_factory.mktemp("ref"), *references))
    assert list(found) == ordered  # nothing is lost
    stems = [Counter(map(stem, names)) for names in (images, references)]
    is_flat = not any(map(os.path.dirname, references))
    for image, reference in found.items():
        if reference is None:
            assert image not in references
        elif is_flat:
            assert [stem(each) for each in references].count(stem(reference)) == 1 or reference == image
            assert stem(reference) == stem(image)
        elif os.path.splitext(reference)[0] != os.path.splitext(image)[0]:
            assert not bare(images) & bare(references)
            assert [counts[stem(image)] for counts in stems] == [1, 1]


class TestGroups:
    @pytest.mark.parametrize(
        ("one", "other", "shared"),
        [
            (["x/1.png", "x/2.png", "y/3.png"], ["x/1.png", "y/2.png", "y/3.png"], 2),  # y/2 is not x/2
            (["x/1.png", "x/2.png"], ["y/1.png", "z/2.png"], 2),
            (["x/1.png", "x/2.png", "x/3.png"], ["x/1.jpg", "z/2.png", "z/3.png"], 0),  # one is no ground
            ([f"x/{NFC}.png", "x/2.png"], [f"x/{NFD}.png", "x/2.png"], 2),
            ([f"x/{NFC}.png", "x/2.png"], [f"{NFD}.jpg", "2.png"], 2),
        ],
    )  # fmt: skip
    def test_stems_only_where_no_path_is_shared(self, one: list[str], other: list[str], shared: int) -> None:
        groups = [
            Group(name, [row(f"{name}/{path}", 1) for path in paths], paths)
            for name, paths in (("a", one), ("b", other))
        ]
        keys = match(groups).keys
        assert len(set(keys.get("a", ())) & set(keys.get("b", ()))) == shared

    def test_names_of_references_only_where_no_path_is_shared(self) -> None:
        def group(name: str, *references: str) -> Group:
            return Group.of_rows(
                name, [row(f"{name}/{n}{name}.png", 1, reference=path) for n, path in enumerate(references)]
            )

        same = match([group("a", "p/x/1.png", "p/x/2.png"), group("b", "p/x/1.png", "p/y/2.png")])
        assert same.rule is None
        moved = match([group("a", f"p/{NFC}.png", "p/2.png"), group("b", f"ci/{NFD}.png", "ci/2.png")])
        assert moved.rule == "name of the reference"
        assert moved.keys["a"] == moved.keys["b"]

    def test_a_reference_behind_a_link_is_another(self, tmp_path: Path) -> None:
        (tmp_path / "far" / "below").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "far" / "below")

        def group(name: str, folder: str) -> Group:
            references = [f"{tmp_path}/{folder}/{n}.png" for n in (1, 2)]
            return Group.of_rows(
                name, [row(f"{name}/{n}{name}.png", 1, reference=path) for n, path in enumerate(references)]
            )

        behind = group("b", "link/..")
        assert match([group("a", "far"), behind]).rule == "reference"
        assert match([group("a", "."), behind]).rule == "name of the reference"


def samples(*names: str) -> list[Sample]:
    return [Sample(f"/db/{name}", None, None, None, name, {"quality": 1.0}) for name in names]


class TestScoresOfTables:
    @pytest.mark.parametrize(
        ("rows", "expected"),
        [
            (["db/sdxl/0.png", "db/sdxl/1.png"], [0, 1, None]),  # flux/0 is not sdxl/0
            (["sdxl/0.png", "flux/0.png"], [0, None, 1]),
            (["/elsewhere/db/flux/0.png", "/elsewhere/db/sdxl/0.png"], [1, None, 0]),
            (["/one/sdxl/0.png", "/two/sdxl/0.png"], [None, None, None]),
            (["0.png", "1.png"], [None, 1, None]),
            (["All/1.png"], [None, 0, None]),
            (["All/1.png", "More/1.png"], [None, None, None]),
        ],
    )
    def test_by_relative_path_or_else_by_a_name_that_is_unique_on_both_sides(
        self, rows: list[str], expected: list[int | None], tmp_path: Path
    ) -> None:
        path = tmp_path / "t.csv"
        path.write_text("image,quality\n" + "".join(f"{image},{number}\n" for number, image in enumerate(rows)))
        asked = samples("sdxl/0.png", "sdxl/1.png", "flux/0.png")
        found = PrecomputedScores.read(path).predictions("t", asked, root="/db", dimensions=())
        got = [None if error else score for error, score in zip(found.errors, found.scores["quality"], strict=True)]
        assert got == expected

    def test_names_are_those_of_the_whole_database_and_errors_name_the_candidates(self, tmp_path: Path) -> None:
        path = tmp_path / "t.csv"
        path.write_text("image,quality\n/far/sdxl/0.png,1\n")
        whole = samples("sdxl/0.png", "flux/0.png")
        found = PrecomputedScores.read(path).predictions("t", whole[1:], root="/db", database=whole, dimensions=())
        (error,) = found.errors
        assert error is not None
        assert error.startswith("/db/flux/0.png: not in ")
        assert error.endswith("rows of the name: /far/sdxl/0.png")

    @pytest.mark.parametrize("row", [f"{NFD}.png", f"/db/{NFD}.png", f"/far/x/{NFD}.png"])
    def test_composed_or_not(self, row: str, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text(f"image,quality\n{row},3\n", encoding="utf-8")
        found = PrecomputedScores.read(tmp_path / "t.csv").predictions(
            "t", samples(f"{NFC}.png"), root="/db", dimensions=()
        )
        assert found.errors == (None,)


class TestPathsThroughLinks:
    def test_two_dots_after_a_link_lead_where_the_system_goes(self, tmp_path: Path) -> None:
        (tmp_path / "far" / "below").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "far" / "below")
        touch(tmp_path, "x.png", "far/x.png")
        real = os.path.realpath(tmp_path)
        assert absolute(tmp_path / "link/../x.png") == os.path.join(real, "far", "x.png")
        assert absolute(tmp_path / "link/..") == os.path.join(real, "far")
        assert absolute(tmp_path / "link/x.png") == str(tmp_path / "link" / "x.png")  # a link is a name like others
