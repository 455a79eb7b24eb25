"""Contestants of a benchmark that take turns, each in a process of its own, so that a busy machine slows all alike.

A process of its own also gives each contestant the environment its users have: what the commands set for themselves
(`aigciqa.cli.ENVIRONMENT`) is not there for the loop somebody writes by hand.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from aigciqa.cli import ENVIRONMENT

#: A contestant made ready: runs once; returns the seconds that count, if they are not all.
Contestant = Callable[[], "float | object"]


def answer(contestant: Contestant) -> None:
    """Run once for each line on standard input, and print the seconds it took. For the process of a contestant."""
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        measured = contestant()
        seconds = measured if isinstance(measured, float) else time.perf_counter() - start
        print(seconds, flush=True)


def medians(
    script: str, contestants: Mapping[str, Sequence[str]], by_hand: Sequence[str], repeats: int
) -> dict[str, float]:
    """Median seconds of each contestant over some rounds, after one that does not count.

    Args:
        script: runs as a contestant, which ends in `answer`, when called with its arguments.
        contestants: name -> arguments.
        by_hand: those that run without what the commands set for themselves.
        repeats: rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    with ExitStack() as stack:
        running = {}
        for name, arguments in contestants.items():
            environment = {key: value for key, value in os.environ.items() if key not in ENVIRONMENT}
            if name not in by_hand:
                environment.update(ENVIRONMENT)
            process = subprocess.Popen(
                [sys.executable, script, *arguments],
                env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            running[name] = process
        for process in running.values():
            _line(process)  # ready
        for _ in range(repeats + 1):
            for name, process in running.items():
                assert process.stdin is not None
                process.stdin.write("\n")
                times[name].append(float(_line(process)))
    return {name: statistics.median(spent[1:]) for name, spent in times.items()}


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a contestant died: {process.args!r}")
    return line
