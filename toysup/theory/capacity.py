"""How much of the width each feature gets in the quadratic model: exact loss, global optimum, capacities, regions.

The setting is that of Scherlis, Sachan, Jermyn, Benton and Shlegeris 2022, "Polysemanticity and Capacity in Neural
Networks" (arXiv 2210.01892): y = sum_i v_i x_i^2 is to be predicted by y' = |W^T x|^2 + b with W of shape (n, m), where
the x_i are independent and symmetric about 0 with unit variance and kurtosis k. The capacity of a feature is

    C_i = (W_i.W_i)^2 / sum_j (W_i.W_j)^2.

The paper's equations could not be consulted: what follows is derived here, and checked by integration and by
minimisation in the tests.

Sum. With F = W^T W, C_i = |W_i|^4 / W_i.F W_i <= W_i.F^-1 W_i (Cauchy and Schwarz), so C_i <= 1 and sum_i C_i <= rank W
for every matrix: that is arithmetic. Equality holds where every W_i is an eigenvector of F: features fall into blocks
that are orthogonal to each other, and each block is a tight frame of its subspace ("block-semi-orthogonal"). So whether
the sum reaches m is an outcome, and a test of that structure.

Loss. With G = W W^T, y - y' = sum_i (v_i - G_ii) x_i^2 - sum_{i != j} G_ij x_i x_j - b. The three kinds of terms are
uncorrelated, so

    E (y - y')^2 = (k - 1) sum_i (v_i - G_ii)^2 + 2 sum_{i != j} G_ij^2 + (sum_i (v_i - G_ii) - b)^2,

and the best b removes the last term. What is left is 2 |G - diag v|^2 + (k - 3) sum_i (v_i - G_ii)^2.

Optimum for k <= 3. The loss is at least (k - 1) |G - diag v|^2, which the m largest v_i, each on an axis of its own,
minimise (Eckart and Young 1936) while making both equal. So capacities are 1 or 0: no sharing. At k = 1 the loss of
that solution is 0 = that of any diagonal G, since x^2 is constant.

Optimum for k > 3. For given g_i = G_ii the interference |G|^2 - sum g_i^2 is least where the eigenvalues of G are as
equal as majorisation allows: features with g_i above the common eigenvalue A have an axis of their own, the others form
a tight frame on what is left (Casazza, Fickus, Kovacevic, Leon and Tremain 2006, A physical interpretation of tight
frames). Then C_i = g_i / A for those that share. That least interference is convex in g, so the loss is strictly convex
in g, and its stationary point is the optimum:

    dedicated   v_i >= A                   g_i = v_i                                 C_i = 1
    shared      2 A / (k - 1) < v_i < A    g_i = ((k - 1) v_i - 2 A) / (k - 3)       C_i = g_i / A
    ignored     v_i <= 2 A / (k - 1)       g_i = 0                                   C_i = 0

So capacity is one ramp in v_i / A for all features, and the price A of a dimension is set by sum_i C_i = m. With two
features in one dimension both share for 2 / (k - 1) < v_2 / v_1 < (k - 1) / 2, which is empty for k <= 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from toysup.checks import InputError, check_interval, check_whole, numbers_in

__all__ = ["REGIONS", "Allocation", "capacity_loss", "capacity_optimum", "capacity_regions"]

REGIONS = ("ignored", "shared", "dedicated")


@dataclass(frozen=True)
class Allocation:
    """The optimum of each setting: loss (...), capacity and squared norm G_ii of each feature (..., n), and the price A
    (...), the squared length that fills a shared dimension: NaN where none is shared."""

    loss: np.ndarray
    capacity: np.ndarray
    squared_norm: np.ndarray
    price: np.ndarray


def capacity_loss(weights: ArrayLike, bias: ArrayLike, importance: ArrayLike, kurtosis: ArrayLike) -> np.ndarray:
    """E (y - y')^2 of each instance, exactly, (...).

    Args:
        weights: W, shape (..., n, m), for features of unit variance. bias: b, shape (...).
        importance: v, shape (..., n). kurtosis: k >= 1, the same for all features, shape (...).
    """
    where = "capacity_loss"
    W, v = numbers_in(where, "weights", weights), numbers_in(where, "importance", importance)
    bias = numbers_in(where, "bias", bias)
    if W.ndim < 2 or v.shape[-1:] != W.shape[-2:-1]:
        raise InputError(
            f"{where}: expected weights W (..., n, m) and importance v (..., n), got {W.shape} and {v.shape}"
        )
    check_interval(where, "kurtosis", kurtosis, 1)
    k = numbers_in(where, "kurtosis", kurtosis)
    _lead(where, W.shape[:-2], v.shape[:-1], bias.shape, k.shape)
    gram = W @ np.swapaxes(W, -1, -2)
    own = np.diagonal(gram, axis1=-2, axis2=-1)
    missed, interference = v - own, (gram**2).sum((-2, -1)) - (own**2).sum(-1)
    mean = missed.sum(-1) - bias
    return (k - 1) * (missed**2).sum(-1) + 2 * interference + mean**2


def capacity_optimum(width: int, importance: ArrayLike, kurtosis: ArrayLike) -> Allocation:
    """The global optimum of every setting, in closed form up to the one number A (see the module).

    Where k <= 3 and the m-th and the next importance are equal, optima tie and the earlier feature is taken.

    Args:
        width: m. importance: v >= 0, shape (..., n). kurtosis: k >= 1, shape (...); leading axes broadcast.

    Raises:
        InputError: width not whole and positive, importance below 0, kurtosis below 1, shapes that do not broadcast.
    """
    where = "capacity_optimum"
    check_whole(where, "width", width)
    check_interval(where, "importance", importance, 0)
    check_interval(where, "kurtosis", kurtosis, 1)
    v, k = numbers_in(where, "importance", importance), numbers_in(where, "kurtosis", kurtosis)
    if not v.ndim or not v.shape[-1]:
        got = f"shape {v.shape}" if v.ndim else "one number"
        raise InputError(f"{where}: importance must have shape (..., n), got {got}")
    lead = _lead(where, v.shape[:-1], k.shape)
    v, k = np.broadcast_to(v, (*lead, v.shape[-1])), np.broadcast_to(k, lead)[..., None]
    most = (np.argsort(np.argsort(-v, axis=-1, kind="stable"), axis=-1) < width) & (v > 0)  # k <= 3: alone on an axis
    shares = (k > 3) & ((v > 0).sum(-1, keepdims=True) > width)
    safe = np.where(k > 3, k, 4.0)  # any value that divides, where nothing is shared
    price = np.where(shares, _price(width, np.where(shares, v, 1.0), safe), 1.0)
    capacity = np.where(shares, _ramp(v / price, safe), most)
    squared = np.where(capacity < 1, capacity * price, v)
    interference = squared * np.where(capacity < 1, price - squared, 0)
    loss = ((k - 1) * (v - squared) ** 2 + 2 * interference).sum(-1)
    return Allocation(loss, capacity, squared, np.where(shares, price, np.nan)[..., 0])


def _lead(where: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape of the instances."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise InputError(f"{where}: leading axes must broadcast, got {' and '.join(map(str, shapes))}") from None


def _ramp(relative: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Capacity at v / A: 0 up to 2 / (k - 1), 1 from 1 on."""
    return np.clip(((k - 1) * relative - 2) / (k - 3), 0, 1)


def _price(width: int, v: np.ndarray, k: np.ndarray) -> np.ndarray:
    """A (..., 1), where capacities sum to `width`: the sum is increasing and piecewise linear in 1 / A."""
    with np.errstate(divide="ignore"):
        bends = np.sort(np.concatenate([1 / v, 2 / ((k - 1) * v)], axis=-1), axis=-1)  # of the ramps, in 1 / A
    bends = np.where(np.isfinite(bends), bends, np.nanmax(np.where(np.isfinite(bends), bends, 0), -1, keepdims=True))
    sums = _ramp(v[..., None, :] * bends[..., :, None], k[..., None, :]).sum(-1)
    after = np.argmax(sums >= width, axis=-1)[..., None]  # the first bend at which the sum is reached, never the first
    left, right = (np.take_along_axis(bends, np.maximum(after - back, 0), -1) for back in (1, 0))
    low, high = (np.take_along_axis(sums, np.maximum(after - back, 0), -1) for back in (1, 0))
    return 1 / (left + (right - left) * (width - low) / np.where(high > low, high - low, 1))


def capacity_regions(capacity: ArrayLike, tolerance: float = 0.0) -> np.ndarray:
    """The place in REGIONS of each feature, whole numbers: 0 ignored where C <= tolerance, 2 dedicated where
    C >= 1 - tolerance, else 1 shared. The tolerance is for trained weights, which are never exactly 0."""
    check_interval("capacity_regions", "tolerance", tolerance, 0, 0.5, open_high=True, one=True)
    check_interval("capacity_regions", "capacity", capacity)
    capacity = numbers_in("capacity_regions", "capacity", capacity)
    return (capacity > tolerance).astype(int) + (capacity >= 1 - tolerance)
