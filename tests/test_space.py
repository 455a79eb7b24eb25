"""The Hugging Face Space in `examples/space`: launched as it is there, and called over HTTP on loopback."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aigciqa

pytestmark = pytest.mark.space

SPACE = Path(__file__).parent.parent / "examples" / "space"
IMAGES = SPACE.parent / "images"
GENERATED, PROMPT = IMAGES / "generated" / "noisy" / "coffee.jpg", IMAGES / "prompts" / "coffee.jpg"


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    from gradio_client import Client

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen([sys.executable, "app.py"], cwd=SPACE, env=environment) as process:
        try:
            wait_for(port, process)
            yield Client(f"http://127.0.0.1:{port}", verbose=False, analytics_enabled=False)
        finally:
            process.terminate()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the app does not answer; exit status {process.poll()}")


@pytest.mark.parametrize("name", ["nr-lite", "fr-lite"])
def test_an_image_gets_its_scores_their_range_and_a_map(client: Any, name: str) -> None:
    from gradio_client import handle_file

    table, plot = client.predict(handle_file(GENERATED), handle_file(PROMPT), name, api_name="/score")
    metric = aigciqa.create_metric(name)
    expected = metric(GENERATED, *([PROMPT] if metric.requires_reference else [])).item()
    assert table["headers"] == ["dimension", "score", "worst", "best"]
    assert table["data"] == [["quality", pytest.approx(expected, abs=0.01), 0, 5]]
    assert plot["type"] == "matplotlib"
    assert len(plot["plot"]) > 10_000


def test_what_is_missing_is_said(client: Any) -> None:
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match="Upload a generated image first"):
        client.predict(None, None, "nr-lite", api_name="/score")
    with pytest.raises(AppError, match="fr-lite compares with the image prompt"):
        client.predict(handle_file(GENERATED), None, "fr-lite", api_name="/score")


def test_the_readme_tells_hugging_face_what_to_run() -> None:
    import gradio

    _, header, _ = (SPACE / "README.md").read_text().split("---\n", 2)
    metadata = dict(re.findall(r"^(\w+): (.*)$", header, re.MULTILINE))
    assert metadata["sdk"] == "gradio"
    assert (SPACE / metadata["app_file"]).is_file()
    assert metadata["sdk_version"].split(".")[0] == gradio.__version__.split(".")[0]
    assert len(metadata["short_description"]) <= 60
