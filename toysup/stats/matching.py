"""Pairs of samples that are as near to each other as can be."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import ArrayLike

from toysup.checks import InputError, check_interval, check_whole, in_line, numbers_in

__all__ = ["nearest_pairs"]


def nearest_pairs(
    a: ArrayLike, b: ArrayLike, *, within: float, at_least: int = 0, of: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Places in `a` and in `b` of values paired one to one so that their distances add up to least, the nearest first.

    Such as networks of two shapes paired by the logarithm of their loss, where those of one were trained for several
    lengths: each then takes part at the length that suits its partner. Distances keep the precision of `a` and `b`.

    Args:
        a, b: (value,) each, finite, at least one.
        within: pairs further apart (>= 0) are left out, but for the `at_least` nearest.
        of: (value of b,), what each belongs to (a seed): of one owner's values no more than one is paired, the one
            nearest to its partner. None: each is its own.

    Returns:
        (pair,) and (pair,), at most as many as there are values of `a` or owners.

    Raises:
        InputError: no values, some that are not finite, or owners that are not as many as `b`.
    """
    where = "nearest_pairs"
    for name, values in (("a", a), ("b", b)):
        known = numbers_in(where, name, values, ("value",))
        if not known.size or not np.isfinite(known).all():
            raise InputError(f"{where}: {name} must be one or more finite numbers, got {in_line(known)}")
    check_interval(where, "within", within, 0, one=True)
    check_whole(where, "at_least", at_least, 0)
    a, b = np.asarray(a), np.asarray(b)
    owners = np.arange(len(b)) if of is None else np.asarray(of)
    if owners.shape != b.shape:
        raise InputError(f"{where}: expected an owner for each of {len(b)} values of b, got shape {owners.shape}")
    gaps = np.abs(b - a[:, None])
    theirs = [np.flatnonzero(owners == owner) for owner in np.unique(owners)]
    nearest = np.stack([own[gaps[:, own].argmin(1)] for own in theirs], 1)  # (value of a, owner): place in b
    first, owner = scipy.optimize.linear_sum_assignment(np.take_along_axis(gaps, nearest, 1))
    second = nearest[first, owner]
    apart = gaps[first, second]
    kept = np.argsort(apart)[: max(min(at_least, len(apart)), int((apart <= within).sum()))]
    return first[kept], second[kept]
