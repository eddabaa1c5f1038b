"""Do two ensembles agree as well as members of one do? Pairs of networks, counted by the networks they are made of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from toysup.checks import InputError, check_resampling, in_line, numbers_in
from toysup.stats.intervals import UNDEFINED, Interval, expanded, percentiles


class Agreement(NamedTuple):
    """`u`, and the mean similarities it is made of: pairs across, and within each ensemble, all less their floors."""

    u: Interval
    across: Interval
    within_a: Interval
    within_b: Interval


def agreement(
    across: ArrayLike,
    within_a: ArrayLike,
    within_b: ArrayLike,
    *,
    floors: tuple[ArrayLike, ArrayLike, ArrayLike] = (0.0, 0.0, 0.0),
    level: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> Agreement:
    """U = (mean across - floor) / sqrt((mean within A - floor) (mean within B - floor)).

    1 if pairs across are as similar as pairs within (the ceiling: the same shape, another seed), 0 if they are as
    similar as by chance. Where both ceilings are equal this is (across - floor) / (ceiling - floor); where one ensemble
    is noisier than the other the geometric mean is what still gives 1 for the same signal (the correction for
    attenuation, Spearman 1904, American Journal of Psychology 15:72). For similarities that are cosines of something,
    as correlations and CKA are, U is the cosine between the two ensembles' mean patterns, which seeds' noise does not
    lower.

    Pairs that share a network are not independent: networks are resampled, those of A and of B each on their own, and
    all pairs of the resample counted but a network with its own copy (the bootstrap of U-statistics; Arcones and Gine
    1992, Annals of Statistics 20:655). Percentile intervals at Hesterberg's level for few samples. U is
    undefined (NaN, no bound) unless both ceilings lie above their floors at this level.

    Args:
        across: (instance_a, instance_b). within_a: (instance_a, instance_a), symmetric, diagonal ignored; within_b.
        floors: of these three in that order, each one number or such a matrix.

    Raises:
        InputError: matrices that do not fit each other, values that are not finite off the diagonals.
    """
    check_resampling("agreement", level, resamples, seed)
    if not isinstance(floors, tuple | list) or len(floors) != 3:
        raise InputError(f"agreement: floors must be three, each one number or a matrix, got {in_line(floors)}")
    across = numbers_in("agreement", "across", across)
    if across.ndim != 2 or min(across.shape) < 2:
        raise InputError(f"agreement: across must be (2 or more, 2 or more), got shape {across.shape}")
    sizes = (across.shape, (len(across),) * 2, (across.shape[1],) * 2)
    similar = []
    for name, values, floor, size in zip(
        ("across", "within_a", "within_b"), (across, within_a, within_b), floors, sizes, strict=True
    ):
        values = numbers_in("agreement", name, values)
        floor = numbers_in("agreement", "floors", floor)
        if values.shape != size or floor.shape not in ((), size):
            raise InputError(f"agreement: {name} and its floor must be {size}, got {values.shape}, {floor.shape}")
        above = values - floor
        if name != "across":
            above = np.where(np.eye(len(above), dtype=bool), 0.0, above)
        if not np.isfinite(above).all():
            raise InputError(f"agreement: {name} less its floor must be finite (did a network diverge?)")
        similar.append(above)

    def means(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(row, 3) of weights (row, instance)."""
        pairs = ((a, similar[0], b), (a, similar[1], a), (b, similar[2], b))
        total = [np.einsum("ri,ij,rj->r", left, matrix, right, optimize=True) for left, matrix, right in pairs]
        count = [a.sum(1) * b.sum(1)] + [w.sum(1) ** 2 - (w**2).sum(1) for w in (a, b)]
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample of one network alone has no pairs
            three: np.ndarray = np.stack(total, 1) / np.stack(count, 1)
        return three

    def u_of(three: np.ndarray) -> np.ndarray:
        ceiling = np.where((three[:, 1:] > 0).all(1), three[:, 1] * three[:, 2], np.nan)
        u: np.ndarray = three[:, 0] / np.sqrt(ceiling)
        return u

    rng = np.random.default_rng(seed)
    values = means(*(np.ones((1, n)) for n in across.shape))
    draws = means(*(rng.multinomial(n, np.full(n, 1 / n), resamples).astype(float) for n in across.shape))
    level = expanded(level, min(across.shape))
    found = []
    for value, drawn in zip(values[0], draws.T, strict=True):
        low, high = percentiles(drawn, level)
        found.append(Interval(value, min(low, value), max(high, value)))
    if min(found[1].low, found[2].low) <= 0:
        return Agreement(UNDEFINED, *found)
    u, (low, high) = u_of(values)[0], percentiles(u_of(draws), level)
    return Agreement(Interval(u, min(low, u), max(high, u)), *found)
