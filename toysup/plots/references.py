"""What the data are to be held against: theory, nulls, levels and zones."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from toysup.checks import InputError
from toysup.plots.looks import GREY


def reference(ax: Axes, x: ArrayLike, y: ArrayLike, label: str, *, linestyle: str = "--") -> Axes:
    """A theoretical curve, dashed and dark grey, labelled at its right end. A scalar `y` is a level over all of `x`."""
    x, y = np.broadcast_arrays(np.atleast_1d(np.asarray(x, dtype=np.float64)), np.asarray(y, dtype=np.float64))
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.any():
        raise InputError(f"reference: {label!r} has no finite point")
    x, y = x[finite], y[finite]
    ax.plot(x, y, color=GREY, linestyle=linestyle, linewidth=1.5, zorder=1)
    ax.annotate(
        label, (x[-1], y[-1]), (-2, 3), textcoords="offset points", ha="right", va="bottom", fontsize=9, color=GREY
    )
    return ax


def null(ax: Axes, x: ArrayLike, y: ArrayLike, label: str) -> Axes:
    """What no effect, or no training, would give: like `reference`, but dotted."""
    return reference(ax, x, y, label, linestyle=":")


def level(
    ax: Axes,
    value: float,
    label: str = "",
    *,
    upright: bool = False,
    right: bool = False,
    color: Any = GREY,
    linestyle: Any = ":",
) -> Axes:
    """A line through the whole panel at one value of y, or of x if `upright`, named along it.

    The name stands above the line at its left end, or at its `right` one; beside an upright line at the top.
    """
    if not np.isfinite(value):
        raise InputError(f"level: expected a finite value, got {value} for {label!r}")
    if upright:
        ax.axvline(value, color=color, linestyle=linestyle, linewidth=1.5, zorder=1)
        ax.annotate(label, (value, 0.98), (3, 0), xycoords=("data", "axes fraction"), textcoords="offset points",
                    rotation=90, va="top", fontsize=9, color=color)  # fmt: skip
        return ax
    ax.axhline(value, color=color, linestyle=linestyle, linewidth=1.5, zorder=1)
    ax.annotate(label, (0.99 if right else 0.01, value), (0, 2), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right" if right else "left", fontsize=9, color=color)  # fmt: skip
    return ax


def zone(
    ax: Axes,
    low: float,
    high: float,
    label: str = "",
    *,
    upright: bool = False,
    color: Any = "0.9",
    legend: bool = False,
) -> Axes:
    """A shaded strip through the whole panel between two values of y, or of x if `upright`, behind everything.

    The label stands inside it, at the right or the top, or in the panel's `legend`.
    """
    if not (np.isfinite([low, high]).all() and low <= high):
        raise InputError(f"zone: expected finite ends in order, got {low} and {high} for {label!r}")
    draw = ax.axvspan if upright else ax.axhspan
    draw(low, high, color=color, zorder=0, linewidth=0, label=label if legend and label else None)
    if label and not legend:
        scale = (ax.xaxis if upright else ax.yaxis).get_scale()
        middle = np.sqrt(low * high) if scale == "log" and low > 0 else (low + high) / 2
        at, between = (
            ((middle, 0.98), ("data", "axes fraction")) if upright else ((0.99, middle), ("axes fraction", "data"))
        )
        place = {"ha": "center", "va": "top"} if upright else {"ha": "right", "va": "center"}
        ax.annotate(label, at, xycoords=between, fontsize=9, color=GREY, **place)
    return ax
