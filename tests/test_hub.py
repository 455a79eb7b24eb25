"""Fetching and publishing heads, through the real huggingface_hub and a Hub on loopback, each in a process of its own:
huggingface_hub reads its endpoint when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import draw_tensor, untrained
from tests.hub_server import Hub, serve

SCORE = """
import sys, torch, aigciqa
from tests.conftest import draw_tensor
metric = aigciqa.create_metric("nr-resnet18", {arguments})
print(metric(draw_tensor(1, 80, 80)).item())
"""
PUBLISH = """
import aigciqa
print(aigciqa.create_metric("nr-resnet18", weights={folder!r}).push_to_hub("org/nr-resnet18", private=True))
"""


@pytest.fixture
def hub() -> Iterator[tuple[str, Hub]]:
    with serve() as running:
        yield running


@pytest.fixture
def head(heads: dict[str, str]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(heads["nr-resnet18"]).iterdir()}


def run(code: str, cache: Path, endpoint: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_HOME": str(cache),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "hf_test",
        **variables,
    }
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


def score(arguments: str, cache: Path, endpoint: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run(SCORE.format(arguments=arguments), cache, endpoint, **variables)


def test_a_published_head_is_fetched_by_name_and_scores_the_same(
    hub: tuple[str, Hub], heads: dict[str, str], tmp_path: Path
) -> None:
    endpoint, content = hub
    expected = untrained("nr-resnet18")(draw_tensor(1, 80, 80)).item()
    published = run(PUBLISH.format(folder=heads["nr-resnet18"]), tmp_path, endpoint)
    assert "/org/nr-resnet18/commit/" in published.stdout, published.stderr
    assert set(content.repos["org/nr-resnet18"]) == {"README.md", "config.json", "model.safetensors"}
    done = score("", tmp_path, endpoint, AIGCIQA_HUB_ORG="org")
    assert float(done.stdout) == pytest.approx(expected, abs=1e-6), done.stderr
    assert any("aigciqa/0" in agent for agent in content.agents)
    pinned = f"weights='org/nr-resnet18@{content.commit_of('org/nr-resnet18')}'"
    assert float(score(pinned, tmp_path, endpoint).stdout) == pytest.approx(expected, abs=1e-6)
    content.requests.clear()
    assert float(score(pinned, tmp_path, endpoint).stdout) == pytest.approx(expected, abs=1e-6)
    assert not [request for request in content.requests if "org/" in request]
    offline = score("local_files_only=True", tmp_path, endpoint, AIGCIQA_HUB_ORG="org")
    assert float(offline.stdout) == pytest.approx(expected, abs=1e-6), offline.stderr
    assert not [request for request in content.requests if "org/" in request]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("weights='org/absent'", "HubError"),
        ("weights='org/private'", "HubError"),
        ("weights='org/head@gone'", "HubError"),
        ("weights='org/empty'", "HubError"),
        ("weights='org/head', local_files_only=True", "HubError"),
    ],
)
def test_what_cannot_be_had_names_the_repo_the_endpoint_and_the_ways_out(
    hub: tuple[str, Hub], head: dict[str, bytes], tmp_path: Path, arguments: str, error: str
) -> None:
    endpoint, content = hub
    content.repos.update({"org/head": head, "org/empty": {}})
    done = score(arguments, tmp_path, endpoint)
    last = done.stderr.strip().splitlines()
    assert done.returncode == 1
    message = "\n".join(last[-2:])
    assert message.startswith(f"aigciqa.errors.{error}: the weights 'org/"), done.stderr
    assert endpoint in message
    assert "create_metric('nr-lite')" in message


def test_offline_and_uncached_fails_at_once(tmp_path: Path) -> None:
    done = score("", tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert "the weights 'aigciqa/nr-resnet18' can't be had from http://127.0.0.1:9" in done.stderr


def test_a_byte_flipped_on_the_way_is_noticed(hub: tuple[str, Hub], head: dict[str, bytes], tmp_path: Path) -> None:
    endpoint, content = hub
    data = bytearray(head["model.safetensors"])
    data[-5] ^= 4
    content.repos["org/head"] = {**head, "model.safetensors": bytes(data)}
    done = score("weights='org/head'", tmp_path, endpoint)
    assert "CheckpointError" in done.stderr
    assert "it was altered" in done.stderr


def test_another_metrics_head_is_refused(hub: tuple[str, Hub], heads: dict[str, str], tmp_path: Path) -> None:
    endpoint, content = hub
    content.repos["org/head"] = {path.name: path.read_bytes() for path in Path(heads["fr-resnet18"]).iterdir()}
    done = score("weights='org/head'", tmp_path, endpoint)
    assert "org/head holds a head for 'fr-resnet18', not for 'nr-resnet18'" in done.stderr
