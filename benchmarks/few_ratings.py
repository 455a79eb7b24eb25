"""How far a head that `aigciqa fit` makes of few ratings agrees with the ratings that it has not seen.

    python benchmarks/few_ratings.py RATINGS [--counts 20 50 100] [--draws 10] [--metric NAME]

RATINGS is a table as `aigciqa fit` takes it. In each draw (seeds 0, 1, ...) a head is fitted to so many of its
images, and compared with the ratings of all the others. Printed for each dimension: mean and lowest SRCC over the
draws, and the mean square of (rating - score) / uncertainty, which is 1 if the uncertainty is right.
"""

from __future__ import annotations

import argparse

import numpy as np

from aigciqa.evaluation import srcc
from aigciqa.training.fit.features import succeeded
from aigciqa.training.fit.fit import SHARES, blocks_of, prepared
from aigciqa.training.fit.ratings import read_ratings
from aigciqa.training.fit.regression import fit
from aigciqa.training.fit.tasks import score_task


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings")
    parser.add_argument("--counts", type=int, nargs="+", default=[20, 50, 100])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--metric")
    options = parser.parse_args()
    rated = read_ratings(options.ratings)
    frozen, reader = prepared(options.metric, dict(rated.score_ranges), None, None, None)
    blocks = blocks_of(frozen, succeeded(reader.read(rated.images, progress=True)))
    features = np.concatenate(blocks, axis=1)
    shares = SHARES if len(blocks) == len(SHARES) else None
    for name, scores in rated.scores.items():
        rows = np.flatnonzero(np.isfinite(scores))
        for count in options.counts:
            agreement, squares = [], []
            for seed in range(options.draws):
                order = rows[np.random.default_rng(seed).permutation(len(rows))]
                seen, unseen = order[:count], order[count:]
                head = fit(score_task([block[seen] for block in blocks], {name: scores[seen]}, shares=shares))
                predicted, std = head.predict(features[unseen])[:, 0], head.std(features[unseen])[:, 0]
                agreement.append(srcc(predicted, scores[unseen]))
                squares.append(float(np.mean(((predicted - scores[unseen]) / std) ** 2)))
            print(
                f"{name}, {count} of {len(rows)} ratings: SRCC {np.mean(agreement):.3f} (lowest {min(agreement):.3f}), "
                f"squared z {np.mean(squares):.2f}"
            )


if __name__ == "__main__":
    main()
