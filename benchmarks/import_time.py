"""What `import aigciqa` adds to `import torch`, and how long `--help` takes: medians of paired runs.

python benchmarks/import_time.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 9
HELP = "from aigciqa.cli.main import main; main(['--help'])"
SCORE_HELP = "from aigciqa.cli.main import main; main(['score', '--help'])"


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    seconds("import torch, aigciqa")  # warms the file cache
    torch_alone, added, helping, scoring = [], [], [], []
    for _ in range(RUNS):
        alone = seconds("import torch")
        torch_alone.append(alone)
        added.append(seconds("import torch, aigciqa; aigciqa.list_metrics()") - alone)
        helping.append(seconds(HELP))
        scoring.append(seconds(SCORE_HELP))
    print(f"import torch                   {statistics.median(torch_alone):.3f} s")
    print(f"import aigciqa adds            {statistics.median(added):.3f} s (at most 0.15)")
    print(f"aigciqa --help                 {statistics.median(helping):.3f} s (at most 0.3)")
    print(f"aigciqa score --help           {statistics.median(scoring):.3f} s (at most 0.6)")


if __name__ == "__main__":
    main()
