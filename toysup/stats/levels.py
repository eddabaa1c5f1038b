"""Whether values keep to discrete levels, given or found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from toysup.checks import InputError, check_interval, check_room, check_whole, numbers_in

__all__ = ["busiest_levels", "near_levels"]


def _values(where: str, values: ArrayLike, within: float) -> np.ndarray:
    x = numbers_in(where, "values", values).ravel()
    check_interval(where, "values", x)
    check_interval(where, "within", within, 0, open_low=True, one=True)
    return x


def near_levels(values: ArrayLike, levels: Sequence[float], within: float, blur: float) -> tuple[float, float]:
    """The share of values within a distance of a level, and the share expected if each were moved by U(-blur, blur).

    The second is the null of the first: the same values, but with no structure finer than `blur`. NaN without values.
    Levels must lie more than 2 * within apart.
    """
    x, at = _values("near_levels", values, within), np.sort(numbers_in("near_levels", "levels", levels, ("level",)))
    check_interval("near_levels", "levels", at)
    check_interval("near_levels", "blur", blur, 0, open_low=True, one=True)
    if not at.size or (np.diff(at) <= 2 * within).any():
        raise InputError(f"near_levels: expected levels more than {2 * within:g} apart, got {at.tolist()}")
    if not x.size:
        return np.nan, np.nan
    low, high = (np.clip(x[:, None] + side * blur, at - within, at + within) for side in (-1, 1))  # value level
    return float((np.abs(x[:, None] - at) <= within).any(1).mean()), float((high - low).sum(1).mean() / (2 * blur))


def busiest_levels(values: ArrayLike, count: int, within: float) -> np.ndarray:
    """The levels with most values within a distance, one after another, each more than 2 * within from the others.

    Fewer than `count` where values run out. Chosen from the data: test them on other data.
    """
    x = np.sort(_values("busiest_levels", values, within))
    check_whole("busiest_levels", "count", count)
    if x.size:  # places a tenth of `within` apart are tried
        check_room("busiest_levels", f"within = {within:g}", int(8 * 10 * np.ptp(x) / within * 4))
    levels: list[float] = []
    while len(levels) < count and x.size:
        centres = np.arange(x[0], x[-1] + within / 10, within / 10)
        far = np.abs(centres[:, None] - np.array([np.inf, *levels])).min(1) > 2.001 * within
        ends = np.searchsorted(x, centres - within), np.searchsorted(x, centres + within, side="right")
        held = np.where(far, ends[1] - ends[0], 0)
        if not held.max(initial=0):
            break
        ties = np.flatnonzero(held == held.max())
        run = ties[ties - ties[0] == np.arange(len(ties))]
        best = centres[run[len(run) // 2]]
        levels.append(float(best))
        x = x[np.abs(x - best) > within]
    return np.sort(levels)
