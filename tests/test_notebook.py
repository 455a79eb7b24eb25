"""The notebook in `examples`: it runs as it is, and is kept without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PATH = Path(__file__).parent.parent / "examples" / "quickstart.ipynb"


@pytest.mark.slow
def test_it_runs_and_shows_what_it_says() -> None:
    notebook = nbformat.read(PATH, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(PATH.parent)}}).execute()
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    printed = {name: "".join(part.get("text", "") for part in parts) for name, parts in outputs.items()}
    means = printed["compare-groups"].split()[::2]
    assert means[0] == "faithful"
    assert len(means) == 6
    assert "image/png" in outputs["map-plot"][0].data
    scores = [float(line.split()[-1]) for line in printed["loss-descend"].splitlines()]
    assert scores[-1] > scores[0] + 0.1


def test_it_is_kept_without_outputs() -> None:
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)
