"""The paper's table of all images: every fourth is tested, the others train.

    python examples/paper_tables/all.py PKU-I2IQA

Needs the PKU-I2IQA database and `pip install aigciqa[train]`; see `--help`.
"""

from __future__ import annotations

from paper_table import main

if __name__ == "__main__":
    main("paper", (__doc__ or "").splitlines()[0])
