"""Where along an axis something switches from one state to another."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from toysup.checks import InputError, check_interval, in_line, numbers_in
from toysup.stats.intervals import Interval, Verdict

__all__ = ["crossing", "holds_up_to", "threshold"]


def threshold(x: ArrayLike, above: ArrayLike) -> float:
    """The place that best divides False, below, from True, above: fewest points on the wrong side of it.

    A one-dimensional decision stump: half-way between two neighbouring x, so uncertain by half a step either way; the
    middle one of places that are equally good. Where nothing switches it is the end of x that has everything on its
    right side.

    Args:
        x: (point,), ascending. above: (point,), whether each point is in the upper state.

    Raises:
        InputError: no points, lengths that differ, or x not finite and ascending.
    """
    x = numbers_in("threshold", "x", x)
    try:
        array = np.asarray(above)
        told = array.dtype.kind == "b" or bool(np.isin(array, (0, 1)).all())
    except (TypeError, ValueError, RuntimeError):
        told = False
    if not told:
        raise InputError(f"threshold: above must be an array of True and False, got {in_line(above)}")
    above = array.astype(bool)
    if x.ndim != 1 or x.shape != above.shape or not x.size:
        raise InputError(f"threshold: expected x and above of one length >= 1, got {x.shape} and {above.shape}")
    if not (np.isfinite(x).all() and (np.diff(x) > 0).all()):
        raise InputError("threshold: x must be finite and ascending")
    wrong = np.concatenate([[0], np.cumsum(above)]) + np.concatenate([np.cumsum(~above[::-1])[::-1], [0]])
    places = np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])
    best = np.flatnonzero(wrong == wrong.min())
    return float(places[best[len(best) // 2]])


def holds_up_to(verdicts: Mapping[float, Verdict]) -> Interval:
    """Up to which x > 0 something holds that is judged at each.

    `low` is the last x before the first whose verdict isn't "supported", 0 where that is the first of all; `high` the
    first where it is "rejected", infinite where it is nowhere; `value` their geometric mean, NaN without both.
    """
    check_interval("holds_up_to", "x", list(verdicts), 0, open_low=True)
    ordered = sorted(verdicts)
    held = list(itertools.takewhile(lambda x: verdicts[x] == "supported", ordered))
    low, high = held[-1] if held else 0.0, next((x for x in ordered if verdicts[x] == "rejected"), math.inf)
    return Interval(math.sqrt(low * high) if held and high < math.inf else math.nan, low, high)


def crossing(first: ArrayLike, second: ArrayLike, x: ArrayLike, near: float = 0.15) -> tuple[float, float]:
    """Where the medians over seeds of two positive curves cross, and the slope of ln(first / second) there.

    x as a parabola in that logarithm, fitted where it is smaller than `near`; NaN, NaN with fewer than 4 such places.

    Args:
        first, second: (seed, place), or (place,); NaN where a seed has none. x: (place,).

    Raises:
        InputError: shapes that don't fit, or x not finite.
    """
    x, curves = numbers_in("crossing", "x", x, ("place",)), []
    for name, curve in (("first", first), ("second", second)):
        curves.append(np.atleast_2d(np.asarray(curve, dtype=np.float64)))
        if curves[-1].ndim != 2 or curves[-1].shape[1] != len(x):
            raise InputError(
                f"crossing: expected {name} as (seed, {len(x)}), a value for each x, got {np.shape(curve)}"
            )
    if not np.isfinite(x).all():
        raise InputError("crossing: x must be finite")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # no seed has a value: NaN
        ratio = np.log(np.nanmedian(curves[0], 0) / np.nanmedian(curves[1], 0))
        use = np.abs(ratio) < near
    if use.sum() < 4:
        return np.nan, np.nan
    inverse = np.polyfit(ratio[use], x[use], 2)  # its value and its slope at 0
    return float(inverse[2]), float(1 / inverse[1])
