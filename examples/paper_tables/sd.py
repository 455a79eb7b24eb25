"""The paper's table of the images by Stable Diffusion alone.

    python examples/paper_tables/sd.py PKU-I2IQA

Needs the PKU-I2IQA database and `pip install aigciqa[train]`; see `--help`.
"""

from __future__ import annotations

from paper_table import main

if __name__ == "__main__":
    main("sd", (__doc__ or "").splitlines()[0])
