"""Networks: their features as directions, W W^T, norms with interference, neurons as stacks of weights, shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import is_color_like
from matplotlib.patches import Circle, Ellipse, Rectangle
from numpy.typing import ArrayLike

from toysup.checks import InputError
from toysup.plots.looks import GREY, category_colours
from toysup.shapes import Shape

MANY = 100  # beyond which features are thin lines with small dots


def directions(
    ax: Axes,
    weights: ArrayLike,
    colours: Any = "C0",
    *,
    markers: str = "o",
    up: int | None = 0,
    numbers: bool = False,
    reach: float | None = 1.35,
) -> Axes:
    """Features embedded in the plane or in space, each a line from the origin to W_i ending in a dot, beside the unit
    circle or sphere.

    Args:
        weights: W, (feature, 2), or (feature, 3) on an axes with projection "3d".
        colours: one for all or one for each feature; the first is drawn last, on top.
        markers: one, or several that are taken in turn ("o^": a dot, a triangle, a dot...).
        up: the feature that is turned to point up, so that pictures can be compared (a rotation changes no loss);
            None leaves all as they are.
        numbers: write the features' numbers, from 1, beyond the dots of those with |W_i| > 1/2.
        reach: half the panel's width; None fits the longest feature.
    """
    W = np.asarray(weights, dtype=np.float64)
    dimensions = 3 if ax.name == "3d" else 2
    colours = [colours] * len(W) if is_color_like(colours) else list(colours)
    if W.ndim != 2 or W.shape[1] != dimensions or len(colours) != len(W):
        raise InputError(
            f"directions: expected weights (feature, {dimensions}) and as many colours, got {W.shape}, {len(colours)}"
        )
    if up is not None:
        W = W @ _turned(W[up])
    reach = reach or 1.1 * max(np.linalg.norm(W, axis=1).max(), np.finfo(float).tiny)
    if dimensions == 3:
        _sphere(ax)
    else:
        ax.add_patch(Circle((0, 0), 1, fill=False, color="0.85"))
    if len(W) > MANY and dimensions == 2:
        lines = [[(0, 0), tuple(w)] for w in W[::-1]]
        ax.add_collection(LineCollection(lines, colors=colours[::-1], linewidths=0.8, alpha=0.5))
        ax.scatter(*W[::-1].T, c=colours[::-1], s=4, zorder=2)
    else:
        for i, w in reversed(list(enumerate(W))):
            ax.plot(*([0, x] for x in w), color=colours[i], marker=markers[i % len(markers)], markevery=[1],
                    markersize=6, linewidth=2)  # fmt: skip
            length = np.linalg.norm(w)
            if numbers and length > 0.5:
                ax.text(*(w * (1 + 0.2 / length)), str(i + 1), ha="center", va="center", fontsize=10)
    ax.set(
        xlim=(-reach, reach),
        ylim=(-reach, reach),
        xticks=[],
        yticks=[],
        **({} if dimensions == 3 else {"aspect": "equal"}),
    )
    if dimensions == 3:
        ax.set(zlim=(-reach, reach), zticks=[])
        ax.set_axis_off()
        ax.set_box_aspect((1, 1, 1), zoom=1.4)  # matplotlib leaves room for labels
    ax.spines[:].set_visible(False)
    return ax


def _turned(w: np.ndarray) -> np.ndarray:
    """The rotation that takes w, as a row, to the last axis: (0, |w|) or (0, 0, |w|)."""
    unit = w / max(np.linalg.norm(w), np.finfo(float).tiny)
    if len(w) == 2:
        x, y = unit
        return np.array([[y, x], [-x, y]])
    if not unit.any():
        return np.eye(3)
    side = np.cross(unit, [1.0, 0, 0] if abs(unit[0]) < 0.9 else [0, 1.0, 0])
    side /= np.linalg.norm(side)
    return np.stack([side, np.cross(unit, side), unit], axis=1)


def _sphere(ax: Any) -> None:
    """The unit sphere, as its equator and two meridians."""
    turn = np.linspace(0, 2 * np.pi, 100)
    circle, flat = (np.cos(turn), np.sin(turn)), np.zeros_like(turn)
    for x, y, z in ((*circle, flat), (circle[0], flat, circle[1]), (flat, *circle)):
        ax.plot(x, y, z, color="0.85", linewidth=1)


def gram(
    ax: Axes, weights: ArrayLike, *, limit: float = 1.0, groups: Iterable[int] = (), bar: bool = False, **image: Any
) -> Axes:
    """W W^T: |W_i|^2 on the diagonal, how features overlap beside it; blue positive, red negative, white none.

    Args:
        weights: W, (feature, dimension); features come from the top.
        limit: colours reach from -limit to limit, so that panels with one limit can be compared and share one
            `colour_bar`. groups: features before which a line is drawn (10: between the first ten and the rest).
        bar: a colour bar of its own. image: to `Axes.imshow`.
    """
    W = np.asarray(weights, dtype=np.float64)
    if W.ndim != 2:
        raise InputError(f"gram: expected weights (feature, dimension), got the shape {W.shape}")
    drawn = ax.imshow(W @ W.T, **{"cmap": "RdBu", "vmin": -limit, "vmax": limit, **image})
    for first in groups:
        ax.axhline(first - 0.5, color="black", linewidth=0.8)
        ax.axvline(first - 0.5, color="black", linewidth=0.8)
    ax.set(xticks=[], yticks=[])
    if bar:
        ax.figure.colorbar(drawn, ax=ax, label="$W_i \\cdot W_j$")
    return ax


def feature_bars(
    ax: Axes, norms: ArrayLike, interference: ArrayLike, *, limits: tuple[float, float] = (0, 1), cmap: str = "viridis"
) -> Axes:
    """|W_i| as a bar for each feature, the first on top, in the colour of its interference (Elhage et al. 2022, "Toy
    models of superposition", with `measure.feature_norm` and `measure.interference`).

    Args:
        norms, interference: (feature,). limits: of the colours; `colour_bar(axes, "interference")` explains them.
            A feature counts as represented beyond the dotted line at 1/2.
    """
    norms, interference = (np.asarray(values, dtype=np.float64) for values in (norms, interference))
    if norms.ndim != 1 or norms.shape != interference.shape:
        raise InputError(f"feature_bars: expected norms and interference (feature,), got {norms.shape} and "
                         f"{interference.shape}")  # fmt: skip
    place = np.arange(len(norms)) + 1
    corners = [[(0, i - 0.4), (norm, i - 0.4), (norm, i + 0.4), (0, i + 0.4)]
               for i, norm in zip(place, norms, strict=True)]  # fmt: skip
    boxes = PolyCollection(corners, array=interference, cmap=cmap, clim=limits)
    ax.add_collection(boxes)
    ax.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    ax.set(xlim=(0, 1.1 * max(norms.max(initial=0), 1)), ylim=(len(norms) + 0.7, 0.3), xlabel="$|W_i|$",
           ylabel="feature")  # fmt: skip
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


def cylinders(ax: Axes, shapes: Sequence[Shape], *, stretch: float = 4) -> Axes:
    """Networks as the note (Katta 2024) pictures them: cylinders of radius d and height L, drawn `stretch` times as
    high, the first on top, named by their width, depth and d L neurons. Parameters are like the volume d^2 L, neurons
    like the surface."""
    if not shapes:
        raise InputError("cylinders: expected at least one shape, got none")
    top, wide = 0.0, max(shape.width for shape in shapes)
    for shape in shapes:
        d, height = shape.width, stretch * shape.depth
        top -= 0.35 * d + height
        ax.add_patch(Ellipse((0, top), 2 * d, 0.3 * d, color="0.75"))
        ax.add_patch(Rectangle((-d, top), 2 * d, height, color="0.75"))
        ax.add_patch(Ellipse((0, top + height), 2 * d, 0.3 * d, facecolor="0.9", edgecolor=GREY))
        ax.annotate(f"{d} wide, {shape.depth} deep\n{shape.note_neurons} neurons", (1.15 * wide, top + height / 2),
                    va="center", fontsize=10)  # fmt: skip
    ax.set(xlim=(-1.05 * wide, 2.8 * wide), ylim=(top - 0.2 * wide, 0.1 * wide), aspect="equal")
    ax.axis("off")
    return ax
