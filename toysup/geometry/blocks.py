"""Which features share dimensions with which: the blocks of a weight matrix (Scherlis et al. 2022, block structure)."""

from __future__ import annotations

import numpy as np
import scipy
import torch
from numpy.typing import ArrayLike

from toysup.checks import InputError, check_interval
from toysup.geometry.dimensions import dimensionality

__all__ = ["block_sizes"]


def block_sizes(weights: ArrayLike, ignored: float = 0.05, orthogonal: float = 15.0) -> np.ndarray:
    """How many features the block of each feature holds, whole numbers, shape (..., n); 0 where it is ignored.

    A block is a set of features that chains of non-orthogonal pairs connect. A feature is ignored, and connects nobody,
    if its capacity (`dimensionality`) is at most `ignored`; a pair within `orthogonal` degrees of a right angle counts
    as orthogonal (as in `toysup.theory.configuration`).

    Args:
        weights: W, shape (..., n, m). ignored: in [0, 1). orthogonal: degrees, in [0, 90).
    """
    W = np.asarray(weights, dtype=np.float64)
    if W.ndim < 2:
        raise InputError(f"block_sizes: weights must have shape (..., n, m), got {W.shape}")
    check_interval("block_sizes", "ignored", ignored, 0, 1, open_high=True)
    check_interval("block_sizes", "orthogonal", orthogonal, 0, 90, open_high=True)
    on = dimensionality(torch.from_numpy(np.ascontiguousarray(W))).numpy() > ignored
    norms = np.linalg.norm(W, axis=-1, keepdims=True)
    unit = W / np.where(norms > 0, norms, 1)
    joined = np.abs(unit @ np.swapaxes(unit, -1, -2)) > np.sin(np.radians(orthogonal))
    joined &= on[..., :, None] & on[..., None, :]
    sizes = np.zeros(on.shape, dtype=int)
    for at in np.ndindex(on.shape[:-1]):
        _, block = scipy.sparse.csgraph.connected_components(joined[at], directed=False)
        sizes[at] = np.bincount(block)[block] * on[at]
    return sizes
