"""Principal components: the best a linear autoencoder can do, and how much of an embedding lies where it would."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from toysup.checks import InputError, check_interval, check_whole, numbers_in

__all__ = ["principal_loss", "principal_share"]


def principal_loss(covariance: Float[ArrayLike, "*stack n n"], width: int) -> np.ndarray:
    """What the best affine map through `width` dimensions loses, summed over features: the covariance's n - width
    smallest eigenvalues (Eckart and Young 1936). Shape (*stack).

    Raises InputError for a matrix that is not square and a width outside [1, n].
    """
    values, _ = _spectrum("principal_loss", covariance, width)
    return np.maximum(values[..., : values.shape[-1] - width], 0.0).sum(-1)


def principal_share(
    weights: Float[ArrayLike, "*stack n width"], covariance: Float[ArrayLike, "*stack n n"]
) -> np.ndarray:
    """The share of |W|^2 in the span of the data's first `width` principal components, in [0, 1]. Shape (*stack).

    1 is an embedding as PCA has it, whatever its rotation; width / n is what random weights give on average; NaN where
    W = 0. It says nothing where the width-th and next eigenvalues are equal: then there is no such span.

    Raises InputError for shapes that do not fit.
    """
    where, weights = "principal_share", numbers_in("principal_share", "weights", weights)
    if weights.ndim < 2:
        raise InputError(f"{where}: weights must have shape (..., n, width), got {weights.shape}")
    n, width = weights.shape[-2:]
    _, vectors = _spectrum(where, covariance, width)
    if vectors.shape[-1] != n:
        raise InputError(f"{where}: weights of {n} features need a covariance of as many, got {vectors.shape[-1]}")
    try:
        np.broadcast_shapes(weights.shape[:-2], vectors.shape[:-2])
    except ValueError:
        shapes = f"{weights.shape[:-2]} and {vectors.shape[:-2]}"
        raise InputError(f"{where}: stacks of weights and covariance must broadcast, got {shapes}") from None
    inside = np.square(vectors[..., n - width :].swapaxes(-1, -2) @ weights).sum((-1, -2))
    whole = np.square(weights).sum((-1, -2))
    return np.where(whole > 0, inside / np.where(whole > 0, whole, 1.0), np.nan)


def _spectrum(where: str, covariance: ArrayLike, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, ascending, and eigenvectors."""
    covariance = numbers_in(where, "covariance", covariance)
    check_interval(where, "covariance", covariance)
    if covariance.ndim < 2 or covariance.shape[-1] != covariance.shape[-2]:
        raise InputError(f"{where}: covariance must have shape (..., n, n), got {covariance.shape}")
    check_whole(where, "width", width)
    if width > covariance.shape[-1]:
        raise InputError(f"{where}: width must be at most n = {covariance.shape[-1]}, got {width}")
    return np.linalg.eigh(covariance)
