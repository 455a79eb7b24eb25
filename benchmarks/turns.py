"""Contestants of a benchmark that take turns, each in a process of its own, so that a busy machine slows all alike.

A process of its own also gives each contestant the environment its users have: the huge pages that `import aigciqa`
asks for are not there for the loop somebody writes by hand.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

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


class Player:
    """The process of a contestant.

    Args:
        script: runs as a contestant, which ends in `answer`, when called with the arguments.
        arguments: of the script.
        is_plain: whether it runs without the huge pages that `import aigciqa` asks for.
    """

    def __init__(self, script: str, arguments: Sequence[str], *, is_plain: bool) -> None:
        environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": str(int(not is_plain))}
        self.process = subprocess.Popen(
            [sys.executable, script, *arguments],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def wait_until_ready(self) -> None:
        """Wait until it is set up."""
        self._line()

    def run(self) -> float:
        """Have it run once: seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        return float(self._line())

    def peak(self) -> int:
        """Its peak memory in bytes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a contestant died: {self.process.args!r}")
        return line


def medians(
    script: str, contestants: Mapping[str, Sequence[str]], plain: Sequence[str], repeats: int
) -> dict[str, float]:
    """Median seconds of each contestant over some rounds, after one that does not count.

    Args:
        script: of all of them.
        contestants: name -> arguments.
        plain: names of those that run without the huge pages that `import aigciqa` asks for.
        repeats: rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    with ExitStack() as stack:
        players = {
            name: stack.enter_context(Player(script, arguments, is_plain=name in plain))
            for name, arguments in contestants.items()
        }
        for player in players.values():
            player.wait_until_ready()
        for _ in range(repeats + 1):
            for name, player in players.items():
                times[name].append(player.run())
    return {name: statistics.median(spent[1:]) for name, spent in times.items()}
