"""Which polytope saves the most loss per dimension: a tied ReLU autoencoder built of copies of one shape.

With many features of equal importance a network may put copies of one polytope into orthogonal subspaces and ignore the
rest (the tegum products of Elhage et al. 2022, "The geometry of superposition"). The copies do not interfere, so its
loss is a sum over them, and with features to spare the best shape is the one that saves most per dimension it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float
from numpy.typing import ArrayLike

from toysup.checks import InputError, check_interval, check_kind, numbers_in
from toysup.theory.phases import MOST_FEATURES, expected_loss

__all__ = ["PolytopeFit", "best_polytope", "fit_polytope"]


class PolytopeFit(NamedTuple):
    """The best network with all features in one polytope, at each density (density,).

    `saved` is the loss it saves per dimension over ignoring its features, `squared_norm` is |W_i|^2 of each feature and
    `dimensions` is D* = rank / (vertices |W_i|^2), what a network of copies of it has as m / |W|_F^2.
    """

    saved: np.ndarray
    squared_norm: np.ndarray
    dimensions: np.ndarray


def fit_polytope(gram: Float[ArrayLike, "vertex vertex"], density: ArrayLike) -> PolytopeFit:
    """Minimise the exact expected loss over one common length and one common bias of a polytope's features.

    For x_i ~ U[0, 1] with probability p, importance 1. An ignored feature loses p/3 - p^2/4.

    Args:
        gram: of the unit vectors to the vertices, which must be all alike; at most 8. density: p in (0, 1], (density,).

    Raises:
        InputError: not a Gram matrix of unit vectors, vertices that differ, too many, densities outside (0, 1].
    """
    where = "fit_polytope"
    gram, density = numbers_in(where, "gram", gram), np.atleast_1d(numbers_in(where, "density", density))
    check_interval(where, "density", density, 0, 1, open_low=True)
    if density.ndim > 1 or not density.size:
        raise InputError(f"{where}: density must have shape (density,), got {density.shape}")
    check_interval(where, "gram", gram)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not gram.size or not np.allclose(gram, gram.T):
        raise InputError(f"{where}: gram must be a symmetric matrix, got shape {gram.shape}")
    values, vectors = np.linalg.eigh(gram)
    rows = np.sort(gram, axis=1)
    if not np.allclose(np.diag(gram), 1) or values[0] < -1e-9 or not np.allclose(rows, rows[0]):
        raise InputError(f"{where}: gram must hold the cosines of unit vectors that all see the others alike")
    k, kept = len(gram), values > 1e-9
    if k > MOST_FEATURES:
        raise InputError(f"{where}: at most {MOST_FEATURES} vertices can be integrated exactly, got {k}")
    unit, rank = vectors[:, kept] * np.sqrt(values[kept]), int(kept.sum())
    one = np.eye(k)[0]  # vertices are alike: the loss of one output is that of any

    def loss(parameters: np.ndarray, p: float) -> float:
        squared_norm, bias = parameters
        return float(expected_loss(np.sqrt(abs(squared_norm)) * unit, np.full(k, bias), p, one))

    found, start = np.empty((len(density), 3)), np.array([0.9, -0.05])
    for place in np.argsort(density):  # each starts where the sparser one ended
        fit = scipy.optimize.minimize(
            loss, start, (density[place],), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-9}
        )
        found[place], start = (*np.abs(fit.x[:1]), fit.x[1], fit.fun), fit.x
    ignored = density / 3 - density**2 / 4
    return PolytopeFit(k * (ignored - found[:, 2]) / rank, found[:, 0], rank / (k * found[:, 0]))


def best_polytope(
    shapes: Mapping[str, Float[ArrayLike, "vertex vertex"]], density: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """(name, D*) of the shape that saves most per dimension at each density, (density,) each; see `fit_polytope`.

    A reference, not a bound: networks may mix shapes, deform them or join them.
    """
    check_kind("best_polytope", "shapes", shapes, Mapping)
    if not shapes:
        raise InputError("best_polytope: shapes must be at least one shape, got none")
    fits = {name: fit_polytope(gram, density) for name, gram in shapes.items()}
    best = np.argmax([fit.saved for fit in fits.values()], axis=0)
    dimensions = np.stack([fit.dimensions for fit in fits.values()])
    return np.array(list(fits))[best], dimensions[best, np.arange(len(best))]
