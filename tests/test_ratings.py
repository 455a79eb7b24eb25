"""Ratings for `fit_head`: what is read, by which rules, and what is refused in one error."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import aigciqa
from aigciqa.errors import InputError
from aigciqa.scoring.sinks import FileSink
from aigciqa.tables.columns import columns_of, to_row
from aigciqa.training.fit.rating_columns import as_dimension
from aigciqa.training.fit.ratings import Ratings, read_ratings

N = 6
NAMES = [f"{number}.png" for number in range(N)]
SCORES = [1.0, 2.5, 3.0, 4.5, 2.0, 5.0]
RATED = [*zip(NAMES, SCORES, strict=True)]


@pytest.fixture(autouse=True)
def no_surprises() -> Iterator[None]:
    """A warning is an error where a test does not expect it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def folder(tmp_path: Path, write_images: Callable[..., list[str]]) -> Path:
    """A folder with six images, `0.png` to `5.png`."""
    write_images("rated", *NAMES, size=(8, 8))
    return tmp_path / "rated"


def table(folder: Path, header: str = "image,quality", *rows: str, name: str = "ratings.csv") -> Path:
    """A table; without rows, the six images with their scores."""
    rows = rows or tuple(f"{name},{score}" for name, score in RATED)
    (folder / name).write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return folder / name


def refused(source: Any, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        read_ratings(source, **options)
    return str(error.value)


def names(ratings: Ratings) -> list[str]:
    return [Path(image).name for image in ratings.images]


def in_format(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"ratings{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix == ".xlsx":
        import openpyxl

        book = openpyxl.Workbook()
        for row in (list(rows[0]), *(list(row.values()) for row in rows)):
            book.active.append(row)
        book.save(path)
    else:
        path.write_text(json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows)))
    return path


def test_what_a_table_says(folder: Path) -> None:
    ratings = read_ratings(table(folder))
    assert ratings.images == tuple(str(folder / name) for name in NAMES)
    assert ratings.dimensions == ("quality",)
    assert ratings.scores["quality"].tolist() == SCORES
    assert ratings.weights["quality"].tolist() == [1.0] * N
    assert ratings.score_ranges == {"quality": (1.0, 5.0)}
    assert ratings.references == ratings.generators == (None,) * N
    assert ratings.groups == tuple(NAMES)
    assert ratings.pairs == {}


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet", ".xlsx"])
def test_every_format_says_the_same(folder: Path, suffix: str) -> None:
    rows = [
        {"image": name, "quality": score, "prompt": f"p{number // 2}"} for number, (name, score) in enumerate(RATED)
    ]
    rows.append({"image": "unrated.png", "quality": None, "prompt": None})
    path = in_format(folder, suffix, rows)
    first = 7 if suffix.startswith(".json") else 8
    with pytest.warns(UserWarning, match=f"1 of 7 rows have no rating and are left out, .* row {first}"):
        ratings = read_ratings(path)
    assert names(ratings) == NAMES
    assert ratings.scores["quality"].tolist() == SCORES
    assert ratings.groups == ("p0", "p0", "p1", "p1", "p2", "p2")


@pytest.mark.parametrize(
    ("encoding", "delimiter", "comma"),
    [("utf-8-sig", ";", ","), ("utf-16", "\t", "."), ("cp1252", ";", ","), ("utf-8", ",", ".")],
)
def test_what_a_spreadsheet_saves(folder: Path, encoding: str, delimiter: str, comma: str) -> None:
    (folder / "0.png").rename(folder / "größe.png")
    cells = [("größe.png", "3.8"), *zip(NAMES[1:], ["1.2", "2", "4.9", "3.1", "5"], strict=True)]
    lines = [delimiter.join((name, score.replace(".", comma))) for name, score in cells]
    text = "\r\n".join([f" image {delimiter}quality", *lines, delimiter, ""])
    (folder / "ratings.csv").write_bytes(text.encode(encoding))
    ratings = read_ratings(folder / "ratings.csv")
    assert names(ratings)[0] == "größe.png"
    assert ratings.scores["quality"].tolist() == [3.8, 1.2, 2, 4.9, 3.1, 5]


def test_images_in_parquet(folder: Path) -> None:
    rows = []
    for number, score in enumerate(SCORES):
        stream = io.BytesIO()
        Image.new("RGB", (8, 8), (number, 0, 0)).save(stream, "PNG")
        rows.append({"image": {"bytes": stream.getvalue(), "path": NAMES[number]}, "quality": score})
    ratings = read_ratings(in_format(folder, ".parquet", rows))
    assert [aigciqa.images.decode.load_image(path).getpixel((0, 0))[0] for path in ratings.images] == [*range(N)]
    rows[4]["image"] = {"bytes": b"torn", "path": "torn.png"}
    assert re.search(r"row 6: image .*torn.png' is none that can be read", refused(in_format(folder, ".parquet", rows)))


def test_a_folder_of_parts_is_one_table(folder: Path) -> None:
    parts = folder / "ratings.parquet"
    parts.mkdir()
    for start in (0, 3):
        rows = [{"image": NAMES[n], "quality": SCORES[n]} for n in range(start, start + 3)]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parts / f"part-{start}.parquet")
    assert read_ratings(parts).scores["quality"].tolist() == SCORES


def test_a_folder_or_a_database(folder: Path, tmp_path: Path) -> None:
    path = table(
        folder,
        "image,quality,generator,group",
        *(f"{name},{score},g{name},a{name}" for name, score in RATED),
    )
    loaded = aigciqa.load_database("folder", folder, score_range={"quality": (0, 5)})
    for source in (path, folder, str(folder), loaded):
        ratings = read_ratings(source)
        assert ratings.images == tuple(str(folder / name) for name in NAMES)
        assert ratings.groups == tuple(f"a{name}" for name in NAMES)
        assert ratings.generators == tuple(f"g{name}" for name in NAMES)
        assert ratings.scores["quality"].tolist() == SCORES
        assert ratings.score_ranges == {"quality": (0, 5) if source is loaded else (1, 5)}
    assert "no ratings of 'beauty'; it has those of quality" in refused(loaded, dimensions=["beauty"])
    assert "row 6: 'quality' is 5; expected 1 to 4" in refused(loaded, score_ranges={"quality": (1, 4)})


def test_a_database_that_has_an_image_twice_is_averaged(folder: Path) -> None:
    table(folder)
    loaded = aigciqa.load_database("folder", folder)
    again = dataclasses.replace(loaded.samples[0], scores={"quality": 2.0}, name="0.png#2")
    twice = dataclasses.replace(loaded, samples=(*loaded.samples, again))
    assert read_ratings(twice).scores["quality"].tolist() == [1.5, *SCORES[1:]]


def test_groups_and_references(folder: Path, write_images: Callable[..., list[str]]) -> None:
    prompts = write_images("prompts", "0.png", "1.png", "2.png")
    rows = ["0.png,1,g,../prompts/0.png,p", "1.png,2,,../prompts/1.png,p", "2.png,3,,,a  cat", "3.png,4,,, a cat"]
    path = table(folder, "image,quality,group,reference,prompt", *rows, "4.png,5,,,", "5.png,6,,,")
    ratings = read_ratings(path)
    assert ratings.groups == ("g", "../prompts/1.png", "a cat", "a cat", "4.png", "5.png")
    assert ratings.references == (*prompts[:2], None, None, None, None)
    ratings = read_ratings(path, references=prompts[2])
    assert ratings.references == (*prompts[:2], *[prompts[2]] * 4)
    found = refused(path, references=folder.parent / "prompts")
    assert "row 4" not in found
    assert "row 5: " in found
    assert "no reference in" in found
    write_images("prompts", *NAMES)
    assert read_ratings(table(folder), references=folder.parent / "prompts").groups == tuple(
        str(folder.parent / "prompts" / name) for name in NAMES
    )


@pytest.mark.parametrize(
    ("prompts", "named"), [(("a cat",), "'a cat', so each"), (("a cat", "a dog"), "'a cat' or 'a dog', so each")]
)
def test_if_all_are_of_one_group_or_two_each_becomes_its_own(
    folder: Path, prompts: tuple[str, ...], named: str
) -> None:
    rows = (f"{name},{score},{prompts[i % len(prompts)]}" for i, (name, score) in enumerate(RATED))
    with pytest.warns(UserWarning, match=f"all images are of the group {named} becomes its own"):
        assert read_ratings(table(folder, "image,quality,prompt", *rows)).groups == tuple(NAMES)


@pytest.mark.parametrize("factor", [1e-9, 1e6, 1e308])
def test_ratings_that_no_checkpoint_could_hold_are_refused_before_anything_is_fitted(
    folder: Path, factor: float
) -> None:
    path = table(folder, "image,quality", *(f"{name},{score / 5 * factor * 2}" for name, score in RATED))
    if factor < 1e308:
        assert "within 1,000,000 of zero and 1e-06 apart" in refused(path)
    else:
        assert "'quality' is 'inf'; expected a number" in refused(path)


# Which columns


def with_columns(folder: Path, **columns: list[Any]) -> Path:
    """A table of the six images and these columns."""
    rows = [",".join(map(str, row)) for row in zip(NAMES, *columns.values(), strict=True)]
    return table(folder, ",".join(["image", *columns]), *rows)


OTHER = [5, 4, 3, 2, 1, 1.5]


def test_any_name_is_one_of_a_dimension(folder: Path) -> None:
    path = with_columns(folder, quality=SCORES, seed=OTHER, **{"Wie schön? (1-5)": OTHER, "style": OTHER})
    with pytest.warns(UserWarning, match=r"taken as ratings: quality, Wie schön\? \(1-5\), style; .* not: seed\."):
        ratings = read_ratings(path)
    assert ratings.dimensions == ("quality", "Wie_schön_1_5", "style")
    assert read_ratings(path, ["style", "quality"]).dimensions == ("style", "quality")
    assert read_ratings(path, ["Wie schön? (1-5)"]).dimensions == ("Wie_schön_1_5",)
    assert read_ratings(path, ["Wie_schön_1_5"]).dimensions == ("Wie_schön_1_5",)
    assert read_ratings(path, ["seed"]).dimensions == ("seed",)
    assert "no column of ratings 'stile' (nearest: 'style')" in refused(path, dimensions=["stile"])
    assert "several columns of ratings would be called style" in refused(path, dimensions=["style", "style"])


def test_settings_are_no_ratings(folder: Path) -> None:
    columns = {
        "id": range(N),
        "seed": OTHER,
        "width": [512] * N,
        "": range(N),
        "prompt": range(N),
        "date": ["1 May"] * N,
    }
    ratings = read_ratings(with_columns(folder, quality=SCORES, **columns))
    assert ratings.dimensions == ("quality",)
    assert "no column of ratings" in refused(with_columns(folder, **columns))


def test_a_column_of_0_and_1_is_one_of_ratings_only_alone(folder: Path) -> None:
    flag = [0, 1, 0, 1, 1, 0]
    with pytest.warns(UserWarning, match="taken as ratings: realness; columns of numbers that are not: photo"):
        assert read_ratings(with_columns(folder, photo=flag, realness=SCORES)).dimensions == ("realness",)
    with pytest.warns(UserWarning, match="taken as ratings: liked"):
        assert read_ratings(with_columns(folder, liked=flag)).dimensions == ("liked",)


def test_what_aigciqa_mos_writes(folder: Path) -> None:
    half = [0.5] * N
    columns = {f"{name}{end}": half for name in ("fun", "quality") for end in ("_std", "_low", "_high")}
    ratings = read_ratings(with_columns(folder, fun=SCORES, quality=OTHER, votes=[4] * N, **columns))
    assert ratings.dimensions == ("fun", "quality")
    assert ratings.weights["fun"].tolist() == [1.0] * N


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_what_aigciqa_score_writes_with_ratings_carried_along(folder: Path, suffix: str) -> None:
    """Scores of the metric are none of people; a carried column may be called NAME_given."""
    columns = columns_of(("quality", "overall"), ("quality_given", "votes", "seed"))
    sink = FileSink(str(folder / f"scores{suffix}"), columns, {"format": 1})
    sink.start()
    for metric in ("nr-lite", "fr-lite"):
        for name, score in RATED:
            extra = {"quality_given": str(score), "votes": "3", "seed": "7"}
            record = aigciqa.Record(
                str(folder / name), None, None, metric, {"quality": 3.0, "overall": 9.0}, extra=extra
            )
            sink.write([to_row(record, columns)])
    sink.close()
    with pytest.warns(UserWarning, match="6 rows with an image, and ratings, that another row has"):
        ratings = read_ratings(folder / f"scores{suffix}")
    assert ratings.dimensions == ("quality",)
    assert ratings.scores["quality"].tolist() == SCORES


def test_scores_of_a_metric_alone_are_no_ratings(folder: Path) -> None:
    rows = [f"{name},,,nr-lite,{score},," for name, score in RATED]
    path = table(folder, "image,reference,group,metric,quality,error,prompt", *rows)
    assert "a table of a metric's scores, and no column of people's ratings behind 'error'" in refused(path)
    assert read_ratings(path, ["quality"]).scores["quality"].tolist() == SCORES


@given(st.text(min_size=1, max_size=99))
def test_every_name_becomes_one_of_a_dimension(name: str) -> None:
    assert re.fullmatch(r"[^\W\d]\w{0,99}", as_dimension(name))
    assert as_dimension(as_dimension(name)) == as_dimension(name)


# Weights


def test_weights_by_votes_and_deviations(folder: Path) -> None:
    def weights(**columns: list[Any]) -> np.ndarray:
        found = read_ratings(with_columns(folder, quality=SCORES, **columns)).weights["quality"]
        assert found.mean() == pytest.approx(1)
        return found

    # Variances 1/1 and 1/4, mean 5/8: weights are as 1/(5/8 + 1) to 1/(5/8 + 1/4).
    by_votes = weights(votes=[1, 1, 1, 4, 4, 4])
    assert by_votes[3] / by_votes[0] == pytest.approx((5 / 8 + 1) / (5 / 8 + 1 / 4))
    # Variances 0 and 4, mean 2: twice the weight of the mean one, thrice that of the other.
    by_std = weights(quality_std=[0, 0, 0, 2, 2, 2])
    assert by_std[0] / by_std[3] == pytest.approx(3)
    # The mean of std ** 2 is 2, which is the variance of one vote; of four, it is (3 x 4 + 2) / 4 / 4 = 7 / 8.
    both = weights(votes=[1, 1, 1, 4, 4, 4], quality_std=[0, 0, 0, 2, 2, 2])
    assert both[3] / both[0] == pytest.approx(((2 + 7 / 8) / 2 + 2) / ((2 + 7 / 8) / 2 + 7 / 8))
    assert weights(quality_std=[0] * N).tolist() == [1] * N
    for unknown in ("", 0):
        assert weights(votes=[unknown, *[3] * (N - 1)]) == pytest.approx(np.ones(N))
    assert weights(votes=[""] * N, quality_std=[""] * N).tolist() == [1] * N
    with pytest.raises(InputError, match=r"row 2: 'votes' is 0\.3; expected how many there were"):
        weights(votes=[0.3, *[3] * (N - 1)])  # a share, as it seems: it would have a variance below 0


def test_an_image_without_a_rating_has_no_weight(folder: Path) -> None:
    ratings = read_ratings(with_columns(folder, quality=["", *SCORES[1:]], overall=SCORES, votes=[9, 1, 1, 1, 1, 1]))
    assert ratings.weights["quality"].tolist() == [0, 1, 1, 1, 1, 1]
    assert np.isnan(ratings.scores["quality"][0])
    assert ratings.weights["overall"][0] > 1


# Bad input


def test_one_error_lists_all_rows(folder: Path) -> None:
    (folder / "torn.png").write_bytes(b"\x89PNG nothing")
    rows = [
        "0.png,good,1", "1.png,3.5,-1", ",2,1", "gone.png,2,1", "torn.png,2,1", "2.png,7,1", "3.png,2,1", "3.png,4,1",
        "4.png,inf,1", "C:\\art\\cat.png,2,1", "5.png,2,many",
    ]  # fmt: skip
    path = table(folder, "image,quality,votes", *rows)
    expected = [
        "row 2: 'quality' is 'good'; expected a number, or an empty cell for none",
        "row 3: 'votes' is -1; expected at least 0",
        "row 4: 'image' is empty",
        "row 5: image 'gone.png': no such file",
        "row 6: image 'torn.png' is none that can be read: ",
        "row 7: 'quality' is 7; expected 1 to 5",
        "row 8: 'quality' of '3.png' is 2, and another in row 9 (4): keep one; of votes, aigciqa mos makes one score",
        "row 10: 'quality' is 'inf'; expected a number",
        "row 11: image 'C:\\\\art\\\\cat.png': no such file. This is a path of another system",
        "row 12: 'votes' is 'many'; expected a number",
    ]
    first, *lines = refused(path, score_ranges=(1, 5)).split("\n")
    assert first == f"{path}: 10 problems"
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(f"- {start}")


def test_a_long_error_is_bounded(folder: Path) -> None:
    lines = refused(table(folder, "image,quality", *["0.png,bad"] * 500)).split("\n")
    assert lines[0].endswith(": 500 problems")
    assert len(lines) == 22
    assert lines[20].startswith("- row 21: ")
    assert lines[21] == "- and 480 more"


def test_decimal_commas_and_points_are_not_mixed(folder: Path) -> None:
    rows = [f'{name};"{score}"' for name, score in zip(NAMES, ["3,8", "2,1", "4.5", "1", "2", "3"], strict=True)]
    found = refused(table(folder, "image;quality", *rows))
    assert (
        "row 2: 'quality' is '3,8'; expected a number, or an empty cell for none; decimal commas are read where"
        in found
    )
    assert "row 3: " in found
    assert "row 4: " not in found


def test_an_unquoted_decimal_comma_is_an_extra_cell(folder: Path) -> None:
    assert "2 rows with more cells than columns: row 2, row 3" in refused(
        table(folder, "image,quality", "0.png,3,8", "1.png,2,1", "2.png,4")
    )


def test_names_of_raters_are_no_images(folder: Path) -> None:
    found = refused(
        table(folder, "image,quality", *(f"{name},3" for name in ("anna", "ben", "cem", "dora", "eli", "finn")))
    )
    assert "none of its 6 images is there: 'anna', 'ben', 'cem', 'dora', 'eli' and 1 more; paths count from" in found
    assert "row" not in found.split("\n")[1]


def test_a_name_in_other_letters(folder: Path) -> None:
    (folder / "0.png").rename(folder / "Zero.PNG")
    found = refused(table(folder, "image,quality", "zero.png,1", *(f"{name},{score}" for name, score in RATED[1:])))
    assert found.endswith("- row 2: image 'zero.png': no such file. There is 'Zero.PNG': letters of another case "
                          "make another name on this system")  # fmt: skip


def test_votes_are_no_ratings(folder: Path) -> None:
    """Rows of several raters: one problem for each image."""
    rows = [f"{name},{rater},{1 + (rater * n) % 5}" for rater in range(12) for n, name in enumerate(NAMES)]
    lines = refused(table(folder, "image,rater,quality", *rows)).split("\n")
    assert len(lines) == 1 + 4  # of images 0 and 5 all are the same
    assert lines[1].startswith("- row 3: 'quality' of '1.png' is 1, and another in row 9 (2), row 15 (3), ")
    assert " and 4 more: keep one; of votes, aigciqa mos makes one score for each image" in lines[1]


def test_slashes_of_another_system(folder: Path) -> None:
    rows = [f"..\\rated\\{name},{score}" for name, score in RATED]
    assert names(read_ratings(table(folder, "image,quality", *rows))) == NAMES


@pytest.mark.parametrize(
    ("header", "rows", "problem"),
    [
        ("image,quality", ["0.png,3"] * 1, "'quality' has 1 rating; at least 5 are needed"),
        ("image,quality", [f"{name},3" for name in NAMES], "all 6 ratings of 'quality' are 3, which leaves nothing"),
        ("image,fun,quality", [f"{name},{n},3" for n, name in enumerate(NAMES)], "all 6 ratings of 'quality' are 3"),
        ("image,quality", [], "no rows"),
        (
            "Image,quality",
            ["0.png,3"],
            r"no column 'image' \(nearest: 'Image'\); found: .*; expected 'image'",
        ),
        ("image,quality,quality", ["0.png,3,3"], "several columns are called 'quality'"),
        ("better,quality", ["0.png,3"], "no column 'image'"),
    ],
)
def test_a_table_that_does_not_do(folder: Path, header: str, rows: list[str], problem: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (folder / "ratings.csv").write_text("\n".join([header, *rows, ""]))
        assert re.search(problem, refused(folder / "ratings.csv"))


def test_files_that_are_none(folder: Path) -> None:
    assert "gone.csv: No such file" in refused(folder / "gone.csv")
    assert "a folder without manifest.csv, or another table that is the only one" in refused(folder)
    assert "read from this machine only" in refused("s3://bucket/ratings.csv")
    (folder / "ratings.jsonl").write_text('{"image": "0.png", "quality": 1}\nnot json\n[1]\n')
    assert "2 rows that can't be read: row 2: not JSON" in refused(folder / "ratings.jsonl")
    (folder / "ratings.json").write_text("{}")
    assert "no list of rows" in refused(folder / "ratings.json")
    (folder / "study.parquet").write_bytes(b"SQLite format 3")
    assert "not Parquet" in refused(folder / "study.parquet")


def test_ranges(folder: Path) -> None:
    path = with_columns(folder, quality=SCORES, overall=OTHER)
    assert read_ratings(path, score_ranges=(0, 10)).score_ranges == {"quality": (0, 10), "overall": (0, 10)}
    assert read_ratings(path, score_ranges={"overall": (0, 10)}).score_ranges == {"quality": (1, 5), "overall": (0, 10)}
    assert "score_ranges has 'fun', which is not rated; rated: quality, overall" in refused(
        path, score_ranges={"fun": (1, 5)}
    )
    assert "expected (lowest, highest)" in refused(path, score_ranges=(5, 1))
    assert "a dimension can't be called 'prompt'" in refused(with_columns(folder, prompt=SCORES), dimensions=["prompt"])


def test_rows_of_one_image(folder: Path) -> None:
    complementary = [f"{name},{score}," for name, score in RATED]
    complementary += [f"./{name},,{score}" for name, score in zip(NAMES, OTHER, strict=True)]
    with pytest.warns(UserWarning, match="6 rows with an image"):
        ratings = read_ratings(table(folder, "image,quality,overall", *complementary))
    assert ratings.scores["quality"].tolist() == SCORES
    assert ratings.scores["overall"].tolist() == OTHER
    rows = [f"{name},{score},a" for name, score in RATED]
    found = refused(table(folder, "image,quality,group", *rows, "0.png,1.0,b"))
    assert "row 8: '0.png' has another reference, prompt, group or generator than in row 2" in found


# Pairs


PAIRS = ["0.png,1.png,3", "1.png,0.png,1", "2.png,1.png,2", "3.png,2.png,1", "4.png,3.png,0", "5.png,0.png,1"]


def test_pairs(folder: Path) -> None:
    ratings = read_ratings(table(folder, "better,worse,votes", *PAIRS))
    assert names(ratings) == ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png"]
    assert ratings.scores == ratings.weights == {}
    assert ratings.dimensions == ("quality",)
    pairs = ratings.pairs["quality"]
    assert pairs.better.tolist() == [0, 1, 2, 3, 5]
    assert pairs.worse.tolist() == [1, 0, 1, 2, 0]
    assert pairs.weight.tolist() == [3, 1, 2, 1, 1]  # nobody preferred 4 to 3
    assert ratings.score_ranges == {"quality": (0, 5)}
    swapped = [f"{row[12:]},{row[6:11]},{row[:5]}" for row in PAIRS]
    again = read_ratings(table(folder, "votes;loser;winner", *(row.replace(",", ";") for row in swapped)))
    assert again.pairs["quality"].better.tolist() == pairs.better.tolist()
    assert read_ratings(table(folder, "better,worse", *(row[:-2] for row in PAIRS)), ["fun"]).dimensions == ("fun",)


def test_pairs_by_question(folder: Path) -> None:
    rows = [f"{row},{name}" for name in ("fun", "How real?") for row in PAIRS]
    path = table(folder, "better;worse;votes;question", *(row.replace(",", ";") for row in rows))
    ratings = read_ratings(path)
    assert ratings.dimensions == ("fun", "How_real")
    assert len(ratings.pairs["How_real"].better) == len(ratings.pairs["fun"].better) == 5
    assert read_ratings(path, ["How real?"]).dimensions == ("How_real",)
    assert "has no pairs of 'style'; it has those of fun, How_real" in refused(path, dimensions=["style"])
    assert "pairs of 2 dimensions need a column" in refused(
        table(folder, "better,worse,votes", *PAIRS), dimensions=["a", "b"]
    )


def test_pairs_that_are_none(folder: Path) -> None:
    wrong = {
        "0.png,./0.png,1,a": "'better' and 'worse' are the same image, '0.png'",
        "1.png,,1,a": "'worse' is empty",
        "2.png,gone.png,1,a": "image 'gone.png': no such file",
        "3.png,4.png,-1,a": "'votes' is '-1'; expected how many there were",
        "3.png,4.png,x,a": "'votes' is 'x'; expected how many there were",
        "3.png,4.png,1,": "'dimension' is empty",
    }
    lines = refused(table(folder, "better,worse,votes,dimension", *wrong)).split("\n")
    assert lines[1:] == [f"- row {row}: {problem}" for row, problem in enumerate(wrong.values(), 2)]
    assert "'quality' has 1 pair; at least 5 are needed" in refused(table(folder, "better,worse", "0.png,1.png"))


# Any table

CELLS = st.sampled_from(["", "nan", "1", "2.5", "3,5", " 4 ", "five", "1e400", "-1", "6"])
IMAGES = st.sampled_from(["", *NAMES, "./0.png", "gone.png", "rated\\1.png", "anna"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.lists(st.tuples(IMAGES, CELLS, CELLS), max_size=12), st.sampled_from([None, (0, 5)]))
def test_any_table_is_read_in_full_or_refused(folder: Path, rows: list[tuple[str, ...]], bounds: Any) -> None:
    """What is read has each rating of the table, at its image, and nothing else."""
    path = folder / "ratings.jsonl"
    path.write_text("\n".join(json.dumps(dict(zip(("image", "quality", "votes"), row, strict=True))) for row in rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ratings = read_ratings(path, ["quality"], bounds)
        except InputError:
            return
    expected = {
        str((folder / image).resolve()): float(score.replace(",", "."))
        for image, score, _ in rows
        if score not in ("", "nan")
    }
    assert dict(zip(ratings.images, ratings.scores["quality"], strict=True)) == expected
    assert len(expected) >= 5
    low, high = ratings.score_ranges["quality"]
    assert all(low <= score <= high for score in expected.values())
    assert ratings.weights["quality"].mean() == pytest.approx(1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=N, max_size=N, unique=True),
    st.lists(st.integers(1, 1000), min_size=N, max_size=N),
    st.permutations(range(N)),
)
def test_the_order_of_rows_changes_nothing_else(
    folder: Path, scores: list[float], votes: list[int], order: list[int]
) -> None:
    def read(order: Any) -> dict[str, tuple[float, float]]:
        rows = [{"image": NAMES[n], "quality": scores[n], "votes": votes[n]} for n in order]
        found = read_ratings(in_format(folder, ".jsonl", rows))
        return dict(zip(found.images, zip(found.scores["quality"], found.weights["quality"], strict=True), strict=True))

    straight, permuted = read(range(N)), read(order)
    assert straight.keys() == permuted.keys()
    for name, pair in straight.items():
        assert permuted[name] == pytest.approx(pair)
    weights = [weight for _, weight in straight.values()]
    assert max(weights) / min(weights) <= N + 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    st.lists(st.decimals(-1000, 1000, places=2), min_size=N, max_size=N, unique=True),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from([".", ","]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_any_way_to_write_numbers_is_read_right(
    folder: Path, scores: list[Decimal], delimiter: str, comma: str, encoding: str, line_end: str
) -> None:
    cells = [f'"{score}"'.replace(".", comma) for score in scores]
    lines = [f"image{delimiter}quality", *(f"{name}{delimiter}{cell}" for name, cell in zip(NAMES, cells, strict=True))]
    (folder / "ratings.csv").write_bytes(line_end.join([*lines, ""]).encode(encoding))
    assert read_ratings(folder / "ratings.csv").scores["quality"].tolist() == list(map(float, scores))
