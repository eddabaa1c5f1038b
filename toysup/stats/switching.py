"""Where along an axis something switches from one state to another."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from toysup.checks import InputError, in_line, numbers_in

__all__ = ["threshold"]


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
