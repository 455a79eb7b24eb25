"""Size of a wheel, and what the core install requires.

python -m build --wheel && python benchmarks/install_size.py dist/*.whl
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

MOST_MEGABYTES = 6.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel
    megabytes = wheel.stat().st_size / 1e6
    with zipfile.ZipFile(wheel) as archive:
        assets = sum(entry.file_size for entry in archive.infolist() if "/embedded/" in entry.filename)
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    core = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    print(f"wheel {megabytes:.2f} MB (at most {MOST_MEGABYTES}), embedded weights and cards {assets / 1e6:.2f} MB")
    print(f"core requirements: {', '.join(sorted(core))}")
    return int(megabytes > MOST_MEGABYTES)


if __name__ == "__main__":
    sys.exit(main())
