"""The paper's table across generators: trained on Stable Diffusion, tested on Midjourney.

    python examples/paper_tables/sd_mj.py PKU-I2IQA

Needs the PKU-I2IQA database and `pip install aigciqa[train]`; see `--help`.
"""

from __future__ import annotations

from paper_table import main

if __name__ == "__main__":
    main("sd-mj", (__doc__ or "").splitlines()[0])
