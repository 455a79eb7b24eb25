"""Fetching and publishing checkpoints: the real huggingface_hub against a Hub on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import aigciqa
from aigciqa import errors
from aigciqa.checkpoints.repo import Repo
from aigciqa.cli.publish import main as publish_command
from aigciqa.heads import RegressionHead
from tests.conftest import Watch, draw_tensor, untrained
from tests.hub_server import TOKEN, Fault, Files, Hub, serve

IMAGES = draw_tensor(1, 80, 80)
pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def checkpoint(tiny: Path) -> Files:
    return read_files(str(tiny))


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., aigciqa.Metric]:
    """`create_metric` with a cache of the test's own."""

    def call(weights: str = "org/checkpoint", **options: Any) -> aigciqa.Metric:
        return aigciqa.create_metric("nr-tiny", weights=weights, cache_dir=str(tmp_path / "cache"), **options)

    return call


def read_files(folder: str | Path) -> Files:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def expected() -> torch.Tensor:
    return untrained("nr-tiny")(IMAGES)


def asked(hub: Hub, method: str = "") -> list[str]:
    """Requests for files, by method."""
    return [request for request in hub.requests if "/resolve/" in request and request.startswith(method)]


# What works


def test_a_checkpoint_lives_from_training_to_another_machine(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train, save, publish, delete, fetch by name into a cache of its own."""
    torch.manual_seed(5)
    metric = aigciqa.create_metric("nr-tiny", weights=None)
    assert isinstance(metric.head, RegressionHead)
    images, opinions = draw_tensor(6, 64, 64), torch.linspace(1, 4, 6)
    optimizer = torch.optim.Adam(metric.head.parameters(), lr=1e-2)
    untrained_error = (metric(images) - opinions).abs().mean()
    features = metric.encode(images)
    for _ in range(100):
        optimizer.zero_grad()
        (metric.head(features)[:, 0] - opinions).square().mean().backward()
        optimizer.step()
    scores = metric(images)
    assert (scores - opinions).abs().mean() < 0.5 * untrained_error
    metric.save_pretrained(tmp_path / "checkpoint")
    address = aigciqa.Metric.from_pretrained(tmp_path / "checkpoint").push_to_hub("lab/nr-tiny", private=True)
    assert address.startswith(os.environ["HF_ENDPOINT"])
    assert set(hub.repos["lab/nr-tiny"]["main"]) == {"README.md", "config.json", "model.safetensors"}
    assert 'weights="lab/nr-tiny"' in hub.repos["lab/nr-tiny"]["main"]["README.md"].decode()
    for path in (tmp_path / "checkpoint").iterdir():
        path.unlink()
    monkeypatch.setenv("AIGCIQA_HUB_ORG", "lab")
    fetched = aigciqa.create_metric("nr-tiny", cache_dir=str(tmp_path / "cache"))
    torch.testing.assert_close(fetched(images), scores, atol=1e-6, rtol=0)


def test_requests_are_few_and_say_who_asks(hub: Hub, checkpoint: Files, fetch: Callable[..., aigciqa.Metric]) -> None:
    commit = hub.add("org/checkpoint", checkpoint)
    assert torch.equal(fetch()(IMAGES), expected())
    assert len(asked(hub, "GET")) == 2
    assert any(f"aigciqa/{aigciqa.__version__}" in agent for agent in hub.agents)
    assert TOKEN in hub.tokens
    hub.requests.clear()
    fetch()
    assert len(hub.requests) == len(asked(hub, "HEAD")) == 1
    hub.requests.clear()
    fetch(f"org/checkpoint@{commit}")
    fetch(local_files_only=True)
    assert hub.requests == []


def test_a_new_commit_is_fetched_and_config_and_weights_are_of_one_commit(
    hub: Hub, checkpoint: Files, tiny: Path, tmp_path: Path, fetch: Callable[..., aigciqa.Metric]
) -> None:
    old = hub.add("org/checkpoint", checkpoint)
    fetch()
    torch.manual_seed(9)
    other = aigciqa.create_metric("nr-tiny", weights=None)
    other.save_pretrained(tmp_path / "other")
    hub.add("org/checkpoint", checkpoint, "v1")
    hub.add("org/checkpoint", read_files(tmp_path / "other"))
    assert torch.equal(fetch()(IMAGES), other(IMAGES))
    for revision in ("v1", old):
        assert torch.equal(fetch(f"org/checkpoint@{revision}")(IMAGES), expected())


@pytest.mark.slow
def test_eight_processes_fill_an_empty_cache_at_once(hub: Hub, checkpoints: dict[str, str], tmp_path: Path) -> None:
    hub.add("org/checkpoint", read_files(checkpoints["nr-resnet18"]))
    code = f"""
import multiprocessing, aigciqa, torch
from aigciqa import metric
torch.set_num_threads(1)
def fetch(barrier, results):
    barrier.wait()
    loaded = aigciqa.create_metric("nr-resnet18", weights="org/checkpoint", cache_dir={str(tmp_path)!r})
    results.put(loaded.head.fc2.bias.sum().item())
context = multiprocessing.get_context("fork")
barrier, results = context.Barrier(8), context.Queue()
processes = [context.Process(target=fetch, args=(barrier, results)) for _ in range(8)]
[process.start() for process in processes]
[process.join() for process in processes]
assert not any(process.exitcode for process in processes), [process.exitcode for process in processes]
print(*[results.get() for _ in processes])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=300)
    head_of = untrained("nr-resnet18").head
    assert isinstance(head_of, RegressionHead)
    assert [float(v) for v in done.stdout.split()] == pytest.approx([head_of.fc2.bias.sum().item()] * 8), done.stderr


def test_the_cache_serves_when_the_hub_does_not(
    checkpoint: Files, monkeypatch: pytest.MonkeyPatch, fetch: Callable[..., aigciqa.Metric]
) -> None:
    with serve() as (endpoint, hub):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        hub.add("org/checkpoint", checkpoint)
        fetch()
        hub.fault = Fault(status=503)
        with pytest.warns(RuntimeWarning, match="answered 503.*; the cached copy is used"):
            fetch()
    with pytest.warns(RuntimeWarning, match="can't be reached.*; the cached copy is used"):
        assert torch.equal(fetch()(IMAGES), expected())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert torch.equal(fetch()(IMAGES), expected())


@pytest.mark.usefixtures("hurry")
def test_a_server_that_is_busy_for_a_moment_is_asked_again(
    hub: Hub, checkpoint: Files, fetch: Callable[..., aigciqa.Metric]
) -> None:
    hub.add("org/checkpoint", checkpoint)
    hub.fault = Fault(status=503, times=3)
    assert torch.equal(fetch()(IMAGES), expected())


def test_a_file_damaged_in_the_cache_is_fetched_again(
    hub: Hub, checkpoint: Files, tmp_path: Path, fetch: Callable[..., aigciqa.Metric], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add("org/checkpoint", checkpoint)
    fetch()
    (weights,) = (tmp_path / "cache").rglob("model.safetensors")
    weights.resolve().write_bytes(checkpoint["model.safetensors"][:-9])
    assert torch.equal(fetch(f"org/checkpoint@{commit}")(IMAGES), expected())
    weights.resolve().write_bytes(checkpoint["model.safetensors"][:-9])
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(errors.TruncatedError, match="truncated or replaced"):
        fetch(f"org/checkpoint@{commit}")


def test_a_folder_never_touches_the_network(tiny: Path, watch: Watch) -> None:
    for owner, name in ((socket.socket, "connect"), (socket, "getaddrinfo")):
        watch(owner, name, AssertionError("the network was touched"))
    assert torch.equal(aigciqa.create_metric("nr-tiny", weights=str(tiny))(IMAGES), expected())


# What fails, and how


@pytest.mark.parametrize(
    ("weights", "fault", "kind", "words"),
    [
        ("org/absent", Fault(), errors.RepoNotFoundError, "no such repo, or a private one"),
        ("org/private", Fault(), errors.RepoNotFoundError, "needs a token"),
        ("org/a--b", Fault(), errors.RepoNotFoundError, "not the name of a repo"),
        ("org/checkpoint@gone", Fault(), errors.RevisionNotFoundError, "no such branch, tag or commit"),
        ("org/empty", Fault(), errors.FileNotInRepoError, "config.json, model.safetensors"),
        ("org/checkpoint", Fault(403, "GatedRepo"), errors.AccessError, "access is restricted"),
        ("org/checkpoint", Fault(403), errors.AccessError, "access is restricted"),
        ("org/checkpoint", Fault(404), errors.ServerError, "answered 404"),
        ("org/checkpoint", Fault(401, "RepoNotFound"), errors.RepoNotFoundError, "token"),
        ("org/checkpoint", Fault(delay=3), errors.UnreachableError, "can't be reached"),
        ("org/checkpoint", Fault(truncate=True), errors.TruncatedError, "ended early"),
    ],
)
def test_each_failure_has_a_type_and_names_repo_endpoint_and_ways_out(
    hub: Hub,
    checkpoint: Files,
    fetch: Callable[..., aigciqa.Metric],
    monkeypatch: pytest.MonkeyPatch,
    weights: str,
    fault: Fault,
    kind: type[Exception],
    words: str,
) -> None:
    if fault.delay:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.5)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    hub.add("org/checkpoint", checkpoint)
    hub.add("org/private", checkpoint)
    hub.private.add("org/private")
    hub.repos["org/empty"] = {"main": {}}
    hub.fault = fault
    check_failure(fetch, weights, kind, words)


@pytest.mark.parametrize("status", [429, 500])
@pytest.mark.usefixtures("hurry")
def test_a_server_that_keeps_failing(hub: Hub, fetch: Callable[..., aigciqa.Metric], status: int) -> None:
    hub.fault = Fault(status)
    check_failure(fetch, "org/checkpoint", errors.ServerError, f"answered {status}")
    assert len(hub.requests) > 3


def check_failure(fetch: Callable[..., aigciqa.Metric], weights: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(errors.WeightsError, match=words) as caught:
        fetch(weights)
    assert type(caught.value) is kind
    message = str(caught.value)
    for part in (f"'{weights}", os.environ["HF_ENDPOINT"], "the metric nr-lite", "weights='./folder'"):
        assert part in message


def test_no_server_and_no_cache_fail_at_once(
    fetch: Callable[..., aigciqa.Metric], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    check_failure(fetch, "org/checkpoint", errors.UnreachableError, "can't be reached")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    check_failure(fetch, "org/checkpoint", errors.OfflineError, "not in the cache")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(errors.OfflineError, match="downloads are off"):
        fetch(local_files_only=True)


def test_a_bit_flipped_on_the_way_is_noticed(
    hub: Hub, checkpoint: Files, fetch: Callable[..., aigciqa.Metric], tmp_path: Path
) -> None:
    commit = hub.add("org/checkpoint", checkpoint)
    Repo("org/checkpoint", commit, cache_dir=str(tmp_path / "cache")).file("config.json", largest=1 << 20)
    hub.fault = Fault(flip=True)
    check_failure(fetch, f"org/checkpoint@{commit}", errors.AlteredError, "it was altered")
    hub.fault = Fault()
    assert torch.equal(fetch()(IMAGES), expected())  # what was altered is not kept


def test_another_metrics_checkpoint_is_refused(
    hub: Hub, checkpoints: dict[str, str], fetch: Callable[..., aigciqa.Metric]
) -> None:
    hub.add("org/checkpoint", read_files(checkpoints["fr-resnet18"]))
    check_failure(
        fetch, "org/checkpoint", errors.WrongMetricError, "holds a checkpoint for 'fr-resnet18', not for 'nr-tiny'"
    )
    assert not [request for request in asked(hub) if "model.safetensors" in request]


def test_a_file_that_is_too_large_is_refused_before_it_is_downloaded(
    hub: Hub, checkpoint: Files, fetch: Callable[..., aigciqa.Metric]
) -> None:
    hub.add("org/checkpoint", {**checkpoint, "config.json": b" " * (2 << 20)})
    check_failure(fetch, "org/checkpoint", errors.CheckpointError, "config.json has 2,097,152 bytes; expected at most")
    hub.add("org/checkpoint", {**checkpoint, "model.safetensors": checkpoint["model.safetensors"] + bytes(1 << 20)})
    check_failure(
        fetch, "org/checkpoint", errors.CheckpointError, r"model.safetensors has [\d,]+ bytes; expected at most"
    )
    assert len(asked(hub, "GET")) == 1


def test_only_the_files_of_a_checkpoint_are_ever_asked_for(
    hub: Hub, checkpoint: Files, tmp_path: Path, fetch: Callable[..., aigciqa.Metric]
) -> None:
    """Whatever else a repo holds, names that climb out of a folder and pickles among it."""
    names = ("../../../escaped", "pytorch_model.bin", "modeling.py", "/escaped")
    hub.add("org/checkpoint", {**checkpoint, **dict.fromkeys(names, b"evil")})
    fetch()
    assert {request.rpartition("/")[2] for request in hub.requests} == {"config.json", "model.safetensors"}
    assert not list(tmp_path.rglob("escaped"))


# Publishing


def test_push_to_hub_makes_a_branch(hub: Hub, fetch: Callable[..., aigciqa.Metric]) -> None:
    address = untrained("nr-tiny").push_to_hub("org/checkpoint", revision="v2", commit_message="Second")
    assert hub.repos["org/checkpoint"]["main"] == {}
    assert address.endswith(hub.commit_of("org/checkpoint", "v2"))
    assert torch.equal(fetch("org/checkpoint@v2")(IMAGES), expected())


def test_the_publish_command(hub: Hub, tiny: Path, fetch: Callable[..., aigciqa.Metric]) -> None:
    (tiny / "notes.txt").write_text("mine")
    done = CliRunner().invoke(publish_command, [str(tiny), "org/checkpoint", "--private"])
    assert done.exit_code == 0, done.output
    commit = hub.commit_of("org/checkpoint")
    assert done.stdout == f"{os.environ['HF_ENDPOINT']}/org/checkpoint/commit/{commit}\n"
    assert f"--weights org/checkpoint@{commit}" in done.stderr
    assert set(hub.repos["org/checkpoint"]["main"]) == {"README.md", "config.json", "model.safetensors"}
    assert "org/checkpoint" in hub.private
    assert torch.equal(fetch(f"org/checkpoint@{commit}")(IMAGES), expected())


def test_a_checkpoint_without_a_card_is_given_one(hub: Hub, checkpoint: Files, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(checkpoint[name])
    assert CliRunner().invoke(publish_command, [str(tmp_path), "org/checkpoint"]).exit_code == 0
    assert 'weights="org/checkpoint"' in hub.repos["org/checkpoint"]["main"]["README.md"].decode()


def test_what_does_not_load_is_not_published(hub: Hub, checkpoint: Files, tmp_path: Path) -> None:
    for name, data in {**checkpoint, "model.safetensors": checkpoint["model.safetensors"][:-1]}.items():
        (tmp_path / name).write_bytes(data)
    done = CliRunner().invoke(publish_command, [str(tmp_path), "org/checkpoint"])
    assert done.exit_code == 2
    assert "truncated or replaced" in done.output
    assert not hub.requests


@pytest.mark.parametrize(
    ("repo", "fault", "words"),
    [
        ("org/checkpoint", Fault(401), "HF_TOKEN"),
        ("org/checkpoint", Fault(403), "access is restricted"),
        ("a/b/c", Fault(), "not the name of a repo"),
    ],
)
def test_publishing_that_fails_says_why(hub: Hub, tiny: Path, repo: str, fault: Fault, words: str) -> None:
    hub.fault = fault
    done = CliRunner().invoke(publish_command, [str(tiny), repo])
    assert done.exit_code == 1
    for part in (words, f"'{repo}' could not be published to {os.environ['HF_ENDPOINT']}", "hf auth login"):
        assert part in done.output
