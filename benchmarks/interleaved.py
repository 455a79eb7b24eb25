"""Cases of a benchmark, interleaved: each runs once in a round, so that a busy machine slows all of them alike.

A case may have a process of its own, with the environment its users have: the huge pages that `import aigciqa` asks for
are not there for the loop somebody writes by hand.
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

#: A case made ready: runs once; returns the seconds that count, if they are not all.
Case = Callable[[], "float | object"]


def medians(cases: Mapping[str, Case], rounds: int) -> dict[str, float]:
    """Median seconds of each case over some rounds, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, case in cases.items():
            times[name].append(seconds(case))
    return {name: statistics.median(spent[1:]) for name, spent in times.items()}


def medians_of_processes(
    script: str, cases: Mapping[str, Sequence[str]], plain: Sequence[str], rounds: int
) -> dict[str, float]:
    """The same of cases that run in a process each.

    Args:
        script: runs any of them, and ends in `serve`.
        cases: name -> arguments of the script.
        plain: names of those that run without the huge pages that `import aigciqa` asks for.
        rounds: how often each runs.
    """
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(CaseProcess(script, arguments, is_plain=name in plain))
            for name, arguments in cases.items()
        }
        for process in processes.values():
            process.wait_until_ready()
        return medians({name: process.run for name, process in processes.items()}, rounds)


def seconds(case: Case) -> float:
    """What one run takes."""
    start = time.perf_counter()
    measured = case()
    return measured if isinstance(measured, float) else time.perf_counter() - start


def serve(case: Case) -> None:
    """In the process of a case: run once for each line on standard input, and print the seconds it took."""
    print("ready", flush=True)
    for _ in sys.stdin:
        print(seconds(case), flush=True)


class CaseProcess:
    """The process of a case.

    Args:
        script: runs the case, and ends in `serve`, when called with the arguments.
        arguments: of the script.
        is_plain: whether it runs without the huge pages that `import aigciqa` asks for.
    """

    def __init__(self, script: str, arguments: Sequence[str], *, is_plain: bool) -> None:
        environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": str(int(not is_plain))}
        self.process = subprocess.Popen(
            [sys.executable, script, *arguments],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def __enter__(self) -> CaseProcess:
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
            raise SystemExit(f"a case died: {self.process.args!r}")
        return line
