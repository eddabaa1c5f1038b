"""Plateaus: over which stretch a curve stays near a level, against a curve that has none."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from toysup.checks import InputError, check_interval, numbers_in

__all__ = ["log_linear_stretch", "stretches"]


def stretches(
    x: Float[ArrayLike, " point"], y: Float[ArrayLike, "seed point"], levels: ArrayLike, within: float
) -> Float[np.ndarray, "seed level"]:
    """The longest stretch of x over which y stays within a factor (1 +- within) of each level, for each curve.

    In units of x. Between points ln y is taken to be linear in x, so even a jump over the band takes some of it.

    Args:
        x: ascending. y: > 0; one row per seed. levels: > 0. within: relative, in (0, 1).

    Raises:
        InputError: lengths that do not fit, x not ascending, numbers out of range.
    """
    x, y = _curves("stretches", x, y)
    levels = np.atleast_1d(numbers_in("stretches", "levels", levels))
    if levels.ndim > 1:
        raise InputError(f"stretches: levels must have shape (level,), got {levels.shape}")
    check_interval("stretches", "levels", levels, 0, open_low=True)
    low, high = _band("stretches", levels, within)
    rise = np.diff(np.log(y), axis=1)[:, None]  # seed 1 piece
    start = np.log(y)[:, None, :-1]
    with np.errstate(divide="ignore", invalid="ignore"):  # a flat piece lies inside as a whole or not at all
        first, last = ((edge[None, :, None] - start) / rise for edge in (low, high))
    flat = (rise == 0) | ~np.isfinite(first) | ~np.isfinite(last)
    inside = (start >= low[None, :, None]) & (start <= high[None, :, None])
    enter = np.where(flat, 0.0, np.clip(np.minimum(first, last), 0, 1))
    leave = np.where(flat, inside * 1.0, np.clip(np.maximum(first, last), 0, 1))
    length = np.zeros(enter.shape[:2])
    running = np.zeros(enter.shape[:2])
    for piece, step in enumerate(np.diff(x)):
        here = (leave[..., piece] - enter[..., piece]) * step
        running = np.where(enter[..., piece] == 0, running, 0.0) + here
        length = np.maximum(length, running)
        running = np.where(leave[..., piece] == 1, running, 0.0)
    return length


def log_linear_stretch(
    x: Float[ArrayLike, " point"], y: Float[ArrayLike, "seed point"], level: float, within: float
) -> Float[np.ndarray, " seed"]:
    """How long `stretches` would be if ln y ran straight from each curve's first point to its last."""
    check_interval("log_linear_stretch", "level", level, 0, open_low=True, one=True)
    x, y = _curves("log_linear_stretch", x, y)
    return stretches(x[[0, -1]], y[:, [0, -1]], level, within)[:, 0]


def _band(where: str, levels: np.ndarray, within: float) -> tuple[np.ndarray, np.ndarray]:
    check_interval(where, "within", within, 0, 1, open_low=True, open_high=True, one=True)
    return np.log(levels * (1 - within)), np.log(levels * (1 + within))


def _curves(where: str, x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = numbers_in(where, "x", x), numbers_in(where, "y", y)
    if x.ndim != 1 or x.size < 2 or y.ndim != 2 or y.shape[1] != x.size or not len(y):
        raise InputError(
            f"{where}: expected x (point,) and y (seed, point), one seed at least, got shapes {x.shape} and {y.shape}"
        )
    check_interval(where, "x", x)
    if not (np.diff(x) > 0).all():
        raise InputError(f"{where}: x must ascend")
    check_interval(where, "y", y, 0, open_low=True)
    return x, y
