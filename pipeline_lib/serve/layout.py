"""Layout of vectors in the plane: principal components, and t-SNE over them.

    python -m pipeline_lib.serve.layout VECTORS.npy PLACES.npy

A process of its own, below the priority of others: it takes a core for as long as it lasts, which searches need, and leaves no
memory behind. scikit-learn's steps go to the standard output as they come. On one thread the same vectors come to the same
places.

N vectors, D width, P principal components.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

STEPS = 750  # of t-SNE's descent
COMPONENTS = 50  # that t-SNE reads: more of them are noise, and cost time
PERPLEXITY = 30.0
FEWEST = 16  # vectors: fewer have no neighbourhoods that t-SNE could keep
SEED = 17
PRIORITY = 10  # below that of others


def laid_out(vectors_ND: np.ndarray) -> np.ndarray:
    """Places (N, 2) float32 of vectors: near ones lie near one another."""
    parts_NP = principal(vectors_ND, COMPONENTS)
    plane_N2 = np.zeros((len(vectors_ND), 2), np.float32)
    plane_N2[:, : parts_NP.shape[1]] = parts_NP[:, :2]
    spread = float(plane_N2[:, 0].std())
    if len(vectors_ND) < FEWEST or not spread:  # or all are the same
        return plane_N2
    from sklearn.manifold import TSNE

    tsne = TSNE(
        perplexity=min(PERPLEXITY, (len(vectors_ND) - 1) / 3),
        init=plane_N2 / spread * 1e-4,
        max_iter=STEPS,
        random_state=SEED,
        n_jobs=1,
        verbose=2,
    )
    return np.asarray(tsne.fit_transform(parts_NP), np.float32)


def principal(vectors_ND: np.ndarray, most: int) -> np.ndarray:
    """The first principal components (N, P) of vectors, each pointing where its largest weight is positive."""
    centred_ND = np.asarray(vectors_ND, np.float64) - np.mean(vectors_ND, axis=0, dtype=np.float64)
    _, axes_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
    axes_DP = axes_DD[:, ::-1][:, :most]
    largest = np.take_along_axis(axes_DP, np.abs(axes_DP).argmax(0)[None], 0)
    return (centred_ND @ (axes_DP * np.where(largest < 0, -1, 1))).astype(np.float32)


def main() -> None:
    """Lay out the vectors of a file."""
    os.nice(PRIORITY)
    vectors, places = map(Path, sys.argv[1:])
    np.save(places, laid_out(np.load(vectors)))


if __name__ == "__main__":
    main()
