"""The paper's table across generators: trained on Midjourney, tested on Stable Diffusion.

    python examples/paper_tables/mj_sd.py PKU-I2IQA

Needs the PKU-I2IQA database and `pip install aigciqa[train]`; see `--help`.
"""

from __future__ import annotations

from paper_table import main

if __name__ == "__main__":
    main("mj-sd", (__doc__ or "").splitlines()[0])
