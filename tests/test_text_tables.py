"""Tables of text as files: what Markdown makes of names, and what is written whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aigciqa.tables.text import TextTable, markdown_text, write_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[x](http://evil)", r"[x\](http://evil)"),
        ("![i](x.png)", r"![i\](x.png)"),
        ("[x][y]", r"[x\][y]"),
        ("_a_ ~~x~~ *b* `c` a|b \\", r"\_a\_ \~\~x\~\~ \*b\* \`c\` a\|b \\"),
        ("&lt;b> <b>", r"\&lt;b> \<b>"),
        ("3.0 [2.9, 3.1], p < 0.001", "3.0 [2.9, 3.1], p < 0.001"),
    ],
)
def test_markdown_shows_names_as_they_are(text: str, expected: str) -> None:
    assert markdown_text(text) == expected


def test_names_are_no_arguments_of_latex() -> None:
    table = TextTable("Means", ("group", "n"), (("a", "1"), ("[b]", "2"), ("*c", "[3]")), left=1)
    assert table.latex().splitlines()[4:7] == [r"a & 1 \\", r"{}[b] & 2 \\", r"{}*c & [3] \\"]


def test_a_file_is_written_whole_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "below" / "table.csv"
    write_text(path, "caf\udce9")
    assert path.read_bytes() == b"caf\xe9"
    write_text(path, "caf\udce9 \ud800")
    assert path.read_bytes() == rb"caf\udce9 \ud800"

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        with pytest.raises(KeyboardInterrupt):
            write_text(path, "other")
    assert path.read_bytes() == rb"caf\udce9 \ud800"
    assert os.listdir(path.parent) == ["table.csv"]
