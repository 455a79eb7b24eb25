"""The GitHub Action in `examples/github-action`: its shell step runs here as a runner would run it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
ACTION = ROOT / "examples/github-action/action.yml"
IMAGES = ROOT / "examples/images"


@pytest.fixture(scope="module")
def action() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(ACTION.read_text())
    return loaded


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    """A table as it came from another machine."""
    path = tmp_path / "baseline.csv"
    rows = [f"/ci/{name},/ci/prompts/{name},,fr-lite,1.5," for name in ("astronaut.jpg", "chelsea.jpg", "coffee.jpg")]
    path.write_text("\n".join(["image,reference,group,metric,quality,error", *rows, ""]))
    return path


def run_step(action: dict[str, Any], folder: Path, **inputs: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run the step that scores; returns what came of it and the job's summary."""
    known = action["inputs"]
    assert inputs.keys() <= known.keys()
    missing = [name for name, each in known.items() if each.get("required") and name not in inputs]
    assert not missing
    values = {name: inputs.get(name, each.get("default")) for name, each in known.items()}
    (step,) = [each for each in action["runs"]["steps"] if each.get("name") == "Score and compare"]
    names = {key: re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", text) for key, text in step["env"].items()}
    environment = {key: values[match[1]] for key, match in names.items() if match}
    assert environment.keys() == names.keys()
    summary = folder / "summary.md"
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder,
        env={
            **os.environ,
            **environment,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "GITHUB_STEP_SUMMARY": str(summary),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done, summary.read_text() if summary.exists() else ""


@pytest.mark.parametrize(("images", "status", "verdict"), [("faithful", 0, "passed"), ("noisy", 1, "FAILED")])
@pytest.mark.slow
def test_the_gate(
    action: dict[str, Any], baseline: Path, tmp_path: Path, images: str, status: int, verdict: str
) -> None:
    done, summary = run_step(
        action,
        tmp_path,
        images=str(IMAGES / "generated" / images),
        reference=str(IMAGES / "prompts"),
        metric="fr-lite",
        baseline=str(baseline),
    )
    assert done.returncode == status, done.stderr
    assert f"{verdict}: fr-lite · quality: scores is" in summary
    assert "3 prompts in common" in summary
    assert {each.name for each in (tmp_path / "aigciqa").iterdir()} >= {"scores.csv", "comparison.md", "report.html"}


@pytest.mark.slow
def test_images_that_can_not_be_scored_fail_it(action: dict[str, Any], baseline: Path, tmp_path: Path) -> None:
    shutil.copytree(IMAGES / "generated/faithful", tmp_path / "with space")
    (tmp_path / "with space/coffee.jpg").write_bytes(b"torn")
    done, summary = run_step(
        action,
        tmp_path,
        images="with space",
        reference=str(IMAGES / "prompts"),
        metric="fr-lite",
        baseline=str(baseline),
    )
    assert done.returncode == 1
    assert "1 score missing and left out" in summary


@pytest.mark.slow
def test_a_wrong_baseline_is_a_usage_error(action: dict[str, Any], tmp_path: Path) -> None:
    done, summary = run_step(action, tmp_path, images=str(IMAGES / "generated/noisy"), baseline="absent.csv")
    assert (done.returncode, summary) == (2, "")
    assert "no such file" in done.stderr


def test_it_installs_the_repository_it_lies_in(action: dict[str, Any]) -> None:
    (install,) = [each["run"] for each in action["runs"]["steps"] if each.get("name") == "Install"]
    (path,) = re.findall(r"\$GITHUB_ACTION_PATH/([./]+)\[", install)
    assert (ACTION.parent / path).resolve() == ROOT
