"""Tidy table + axes -> axes. Nothing here changes its table, opens a window or touches global state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Patch
from numpy.typing import ArrayLike

from toysup import stats
from toysup.checks import InputError, check_interval

__all__ = [
    "GREY",
    "axes_legend",
    "band",
    "bars",
    "boundaries",
    "category_colours",
    "directions",
    "figure",
    "neuron_stacks",
    "null",
    "phase_map",
    "reference",
    "style",
]

MARKERS = "osD^vP*Xhd"
GREY = "0.35"


def style() -> AbstractContextManager[None]:
    """The look of every figure, as a context manager; `report.experiment` runs a script's `main` inside it."""
    look = {**sns.axes_style("ticks"), **sns.plotting_context("notebook")}  # 10 inches shrunk to a README: 9 px letters
    look |= {"legend.frameon": False, "legend.fontsize": 10, "axes.spines.top": False, "axes.spines.right": False}
    return mpl.rc_context(look)


def figure(
    nrows: int = 1, ncols: int = 1, *, width: float = 10, height: float = 3.6, **share: Any
) -> tuple[Figure, np.ndarray]:
    """A figure `width` inches wide whose rows are `height` inches high, and its axes, always an array (nrows, ncols).

    `share` goes to `Figure.subplots`: sharex, sharey, width_ratios...
    """
    drawing = Figure(figsize=(width, nrows * height), layout="constrained")
    return drawing, drawing.subplots(nrows, ncols, squeeze=False, **share)


def category_colours(names: Iterable[Any]) -> dict[Any, tuple[float, float, float]]:
    """One colour-blind-safe colour for each distinct name, in the order of appearance; at most 10."""
    distinct = list(dict.fromkeys(names))
    palette = sns.color_palette("colorblind", 10)
    if len(distinct) > len(palette):
        raise InputError(f"category_colours: expected at most {len(palette)} names, got {len(distinct)}")
    return dict(zip(distinct, palette, strict=False))


def _label(name: Any) -> str:
    """What a legend calls it: matplotlib leaves out labels that are empty or begin with _, unless something invisible
    comes first."""
    text = str(name)
    return f"\u200b{text}" if not text or text.startswith("_") else text


def axes_legend(ax: Axes, colours: Mapping[Any, Any], below: float) -> None:
    """Colour patches under one panel, `below` its height, for a row of maps that have colours of their own."""
    patches = [Patch(facecolor=colour, label=_label(name)) for name, colour in colours.items()]
    ax.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, -below), ncols=3, fontsize=9)


def boundaries(ax: Axes, cells: pd.DataFrame, *, log: bool = True) -> Axes:
    """Lines between neighbouring cells of different value, for a map whose index is y and whose columns are x."""
    values = cells.to_numpy()
    x, y = (_edges(axis.to_numpy(dtype=np.float64), log) for axis in (cells.columns, cells.index))
    upright = [[(x[j + 1], y[i]), (x[j + 1], y[i + 1])] for i, j in np.argwhere(values[:, 1:] != values[:, :-1])]
    level = [[(x[j], y[i + 1]), (x[j + 1], y[i + 1])] for i, j in np.argwhere(values[1:] != values[:-1])]
    ax.add_collection(LineCollection(upright + level, colors="black", linewidths=1))
    return ax


def band(
    ax: Axes,
    table: pd.DataFrame,
    x: str,
    y: str,
    hue: str | None = None,
    *,
    colours: Mapping[Any, Any] | None = None,
    log: bool = False,
    level: float = 0.95,
) -> Axes:
    """The mean of `y` at each `x`, a marked line per value of `hue`, in the band of the t interval over rows (seeds).

    Rows without a finite `y` are left out; a single row has no band. `colours` maps values of `hue` to colours, in the
    order to draw (default: sorted, `category_colours`). `log` makes the x axis logarithmic, ticked at powers of two.
    The lines carry labels for `ax.legend()`.
    """
    stats.check_columns("band", table, x, y, *([hue] if hue else []))
    table = table[np.isfinite(table[y].to_numpy(dtype=np.float64))]
    groups = dict(iter(table.groupby(hue))) if hue else {y: table}
    for i, (name, colour) in enumerate((colours or category_colours(groups)).items()):
        if name not in groups:
            continue
        means = {at: stats.mean(rows, level).asdict() for at, rows in groups[name].groupby(x)[y]}
        line = pd.DataFrame.from_dict(means, orient="index").replace([-np.inf, np.inf], np.nan)
        ax.plot(line.index, line["value"], color=colour, marker=MARKERS[i % 10], markersize=5, label=_label(name))
        ax.fill_between(line.index, line["low"], line["high"], color=colour, alpha=0.2, linewidth=0)
    if log:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}" if x >= 1 else f"1/{1 / x:g}")
    ax.set(xlabel=x, ylabel=y)
    return ax


def bars(
    ax: Axes, groups: Iterable[Any], bars: Mapping[Any, Iterable[stats.Interval]], colours: Mapping[Any, Any]
) -> Axes:
    """For each group a bar of every kind beside each other, with its interval; `bars` maps a kind to its intervals, one
    for each group, and `colours` to its colour. Infinite ends are not drawn. Kinds are labels for `ax.legend()`."""
    groups = [str(group) for group in groups]
    width = 0.8 / len(bars)
    for number, (kind, found) in enumerate(bars.items()):
        ends = np.array([[one.value - one.low, one.value, one.high - one.value] for one in found])
        if len(ends) != len(groups):
            raise InputError(f"bars: {kind!r} has {len(ends)} intervals, expected one for each of {len(groups)} groups")
        x = np.arange(len(groups)) + (number - (len(bars) - 1) / 2) * width
        reach = np.where(np.isfinite(ends[:, [0, 2]]), ends[:, [0, 2]], 0.0).clip(min=0)
        ax.bar(x, ends[:, 1], width, yerr=reach.T, error_kw={"elinewidth": 1}, color=colours[kind], label=_label(kind))
    ax.set_xticks(range(len(groups)), groups)
    return ax


def reference(ax: Axes, x: ArrayLike, y: ArrayLike, label: str, *, linestyle: str = "--") -> Axes:
    """A theoretical curve, dashed and dark grey, labelled at its right end. A scalar `y` is a level over all of `x`."""
    x, y = np.broadcast_arrays(np.atleast_1d(np.asarray(x, dtype=np.float64)), np.asarray(y, dtype=np.float64))
    shown = np.isfinite(x) & np.isfinite(y)
    if not shown.any():
        raise InputError(f"reference: {label!r} has no finite point")
    x, y = x[shown], y[shown]
    ax.plot(x, y, color=GREY, linestyle=linestyle, linewidth=1.5, zorder=1)
    ax.annotate(
        label, (x[-1], y[-1]), (-2, 3), textcoords="offset points", ha="right", va="bottom", fontsize=9, color=GREY
    )
    return ax


def null(ax: Axes, x: ArrayLike, y: ArrayLike, label: str) -> Axes:
    """What no effect, or no training, would give: like `reference`, but dotted."""
    return reference(ax, x, y, label, linestyle=":")


def directions(
    ax: Axes, weights: ArrayLike, colours: Iterable[Any], *, up: int = 0, numbers: bool = False, reach: float = 1.35
) -> Axes:
    """Features embedded in the plane, each a line from the origin to W_i ending in a dot, beside the unit circle.

    Args:
        weights: W, (feature, 2). colours: one for each feature; the first is drawn last, on top.
        up: the feature that is turned to point up, so that pictures can be compared (a rotation changes no loss).
        numbers: write the features' numbers, from 1, beyond the dots of those with |W_i| > 1/2.
        reach: half the panel's width.
    """
    W = np.asarray(weights, dtype=np.float64)
    colours = list(colours)
    if W.ndim != 2 or W.shape[1] != 2 or len(colours) != len(W):
        raise InputError(
            f"directions: expected weights (feature, 2) and as many colours, got {W.shape}, {len(colours)}"
        )
    x, y = W[up] / max(np.linalg.norm(W[up]), np.finfo(float).tiny)
    W = W @ np.array([[y, x], [-x, y]])  # takes (x, y) to (0, 1)
    ax.add_patch(Circle((0, 0), 1, fill=False, color="0.85"))
    for i, (x, y) in reversed(list(enumerate(W))):
        ax.plot([0, x], [0, y], color=colours[i], marker="o", markevery=[1], markersize=6, linewidth=2)
        length = np.hypot(x, y)
        if numbers and length > 0.5:
            ax.text(*(W[i] * (1 + 0.2 / length)), str(i + 1), ha="center", va="center", fontsize=10)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    ax.spines[["left", "bottom"]].set_visible(False)
    return ax


def _edges(centres: np.ndarray, log: bool) -> np.ndarray:
    """Cell borders half-way between centres (geometrically if `log`), the outermost cells symmetric."""
    at = np.log(centres) if log else centres
    if at.size == 1:
        edges = at + np.array([-0.5, 0.5])
    else:
        inner = (at[1:] + at[:-1]) / 2
        edges = np.concatenate([[2 * at[0] - inner[0]], inner, [2 * at[-1] - inner[-1]]])
    return np.exp(edges) if log else edges


def phase_map(
    ax: Axes,
    table: pd.DataFrame,
    x: str,
    y: str,
    value: str,
    *,
    colours: Mapping[Any, Any] | None = None,
    log: bool = True,
    **mesh: Any,
) -> Axes:
    """A heat map of `value` over the grid of `x` and `y`, each cell drawn around its own centre; log axes by default.

    Several rows in a cell show as their mean, or, for a category, as the commonest one (the first by name in a tie).

    Args:
        table: `x` and `y` positive where `log`. Cells without a row stay light grey.
        colours: category -> colour (`category_colours`), shared by the maps to be compared, with one `axes_legend`.
            Without it `value` is a number and the map gets its own colour bar.
        mesh: to `Axes.pcolormesh`: cmap, vmin, vmax, norm.
    """
    stats.check_columns("phase_map", table, x, y, value)
    for name in (x, y):
        check_interval("phase_map", name, table[name].to_numpy(), 0 if log else -np.inf, open_low=log)
    values = table[value]
    if colours is not None:
        unknown = set(values) - set(colours)
        if unknown:
            raise InputError(f"phase_map: no colour for {sorted(map(str, unknown))}, only for {list(colours)}")
        values = values.map({name: i for i, name in enumerate(sorted(colours, key=str))})
        order = [colours[name] for name in sorted(colours, key=str)]
        mesh = {"cmap": ListedColormap(order), "vmin": -0.5, "vmax": len(order) - 0.5, **mesh}
    cells = values.astype(np.float64).groupby([table[y], table[x]])
    grid = (cells.mean() if colours is None else cells.agg(lambda rows: rows.mode().iloc[0])).unstack()
    edges = (_edges(axis.to_numpy(dtype=np.float64), log) for axis in (grid.columns, grid.index))
    drawn = ax.pcolormesh(*edges, np.ma.masked_invalid(grid.to_numpy()), **{"rasterized": True, **mesh})
    ax.set(xlabel=x, ylabel=y, facecolor="0.9", **({"xscale": "log", "yscale": "log"} if log else {}))
    if colours is None:
        ax.figure.colorbar(drawn, ax=ax, label=value)
    return ax


def neuron_stacks(ax: Axes, weights: np.ndarray, alive: np.ndarray) -> Axes:
    """One bar for each neuron: its absolute input weights on top of each other, the largest at the bottom and scaled to
    1 (Elhage et al. 2022, "Visualizing superposition in terms of neurons"): what rises above 1 are further features.

    Args:
        weights: (feature, neuron). Neurons come in the order of the feature with their largest weight.
        alive: (neuron,); dead neurons stand last, in grey.
    """
    ranked = -np.sort(-np.abs(weights), axis=0)
    ranked = ranked / np.maximum(ranked[:1], np.finfo(ranked.dtype).tiny)
    order = np.lexsort((np.abs(weights).argmax(0), ~alive))
    bottom, x = np.vstack([np.zeros_like(ranked[:1]), ranked.cumsum(0)[:-1]])[:, order], np.arange(weights.shape[1])
    colours = category_colours(["largest weight", "other weights"])
    for rows, (name, fill) in zip((slice(0, 1), slice(1, None)), colours.items(), strict=True):
        top, low = (bottom[rows] + ranked[rows][:, order]), bottom[rows]
        left, right = (np.broadcast_to(x + side, top.shape) for side in (-0.45, 0.45))
        corners = np.stack([np.stack(at, -1) for at in ((left, low), (right, low), (right, top), (left, top))], -2)
        faces = [fill if living else (0.75, 0.75, 0.75) for living in alive[order]] * len(top)
        edges = np.where((top - low).ravel() > 0.1, 0.3, 0.0)
        boxes = PolyCollection(corners.reshape(-1, 4, 2), facecolors=faces, edgecolors="white", linewidths=edges)
        boxes.set_rasterized(True)  # thousands of boxes
        ax.add_collection(boxes)
        ax.plot([], [], "s", color=fill, label=name)
    ax.set(xlim=(-1, len(x)), ylim=(0, 1.03 * ranked.sum(0).max()))
    ax.set(xlabel="neuron, by the importance of its main feature", ylabel="stacked |W$_1$|, largest = 1")
    return ax
