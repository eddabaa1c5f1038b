"""How much of the space a direction has to itself, and how regular directions in a plane are."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

__all__ = ["dimensionality", "irregularity", "typical_dimensionality"]


def dimensionality(W: Float[Tensor, "*stack feature width"]) -> Float[Tensor, "*stack feature"]:
    """D_i = |W_i|^2 / sum_j (W^_i . W_j)^2, the share of a dimension that feature i has to itself; 0 where W_i = 0.

    Elhage et al. 2022, "The geometry of superposition". In [0, 1], and sum_i D_i <= rank W: antipodal 1/2, triangle
    2/3, tetrahedron 3/4, pentagon 2/5, orthonormal 1.
    """
    squared = W.square().sum(-1)
    overlap = (W @ (W.mT @ W) * W).sum(-1)  # sum_j (W_i . W_j)^2, without the matrix of all pairs
    return torch.where(squared == 0, 0.0, squared.square() / overlap.clamp(min=torch.finfo(W.dtype).tiny))


def typical_dimensionality(V: Float[Tensor, "*stack vector width"]) -> Float[Tensor, "*stack"]:
    """sum_i |V_i|^2 D_i / sum_i |V_i|^2: the dimensions that one vector has where the squared length is.

    The plain mean of D is about width / vectors whatever the vectors are (dimensionalities sum to the rank); this one
    says how few share the space: k vectors of one length in regular position among any number of short ones give
    width / k, a pentagon 2/5, a triangle 2/3. No vector at all gives 0.
    """
    squared = V.square().sum(-1)
    return (squared * dimensionality(V)).sum(-1) / squared.sum(-1).clamp(min=torch.finfo(V.dtype).tiny)


def irregularity(V: ArrayLike) -> tuple[int, float]:
    """(k, worst relative error of the angles between neighbours) of the vectors in a plane that are longer than half
    the longest: error 0 where they point to the corners of a regular k-gon; infinite for fewer than two.
    """
    V = np.asarray(V, dtype=np.float64)
    length = np.linalg.norm(V, axis=1)
    long = V[length > length.max() / 2]
    if len(long) < 2:
        return len(long), np.inf
    angles = np.sort(np.arctan2(long[:, 1], long[:, 0]))
    gaps = np.diff(angles, append=angles[0] + 2 * np.pi)
    return len(long), float(np.abs(gaps * len(long) / (2 * np.pi) - 1).max())
