"""Which shape features form is read from their Gram matrices.

`clusters` cuts the features of each instance into groups that interfere among themselves only and names each group
after the polytope whose Gram matrix it has; `arrangements` says the same in words, one for each instance.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import scipy
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike

from toysup.checks import InputError, check_interval
from toysup.geometry.dimensions import dimensionality

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["REPRESENTED", "arrangements", "clusters", "polytopes", "random_directions"]

REPRESENTED = 0.25  # least |W_i|^2 of a represented feature
ORTHOGONAL = 15.0  # degrees off a right angle that still count as one: half-way to a triangle's 120
MATCH = 0.1  # root mean square difference of cosines up to which a group has a polytope's shape
ENTRIES = 1 << 24  # of Gram matrices in work at once


def _simplex(vertices: int) -> np.ndarray:
    """The Gram matrix of unit vectors to the corners of a regular simplex."""
    return np.eye(vertices) - (1 - np.eye(vertices)) / max(vertices - 1, 1)


def _gram(points: ArrayLike) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    points = points / np.linalg.norm(points, axis=-1, keepdims=True)
    return points @ points.T


@cache
def polytopes() -> dict[str, np.ndarray]:
    """Name -> Gram matrix (vertex, vertex) of the unit vectors to the vertices, for the shapes that get a name.

    Vertices are all alike in each of them. A feature in one of k vertices in r dimensions has dimensionality r / k
    (where the frame is tight, as these are). Shapes that split into orthogonal parts are not here, since `clusters`
    finds the parts: a square is two digons, an octahedron three, a triangular bipyramid a triangle and a digon. Nor are
    simplices of more than four vertices, whose angles are within 15 degrees of a right one.
    """
    shapes = {"point": _simplex(1), "digon": _simplex(2), "triangle": _simplex(3), "tetrahedron": _simplex(4)}
    for name, k in (("pentagon", 5), ("hexagon", 6), ("heptagon", 7), ("octagon", 8)):
        angle = 2 * np.pi * np.arange(k) / k
        shapes[name] = _gram(np.stack([np.cos(angle), np.sin(angle)], axis=-1))
    turn = (
        np.pi / 4 * np.arange(8)
    )  # every second corner of an octagon up, the others down, so that all edges are equal
    height = np.where(np.arange(8) % 2, -1, 1) * np.sqrt(np.sqrt(2) / 4)
    shapes["square antiprism"] = _gram(np.stack([np.cos(turn), np.sin(turn), height], axis=-1))
    shapes["cube"] = _gram([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    golden = (1 + np.sqrt(5)) / 2
    signs = [(a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    shapes["icosahedron"] = _gram([np.roll((0, a, b), k) for a, b in signs for k in range(3)])
    return shapes


def _shapes_of(gram: Float[np.ndarray, "group k k"]) -> tuple[np.ndarray, np.ndarray]:
    """(name, error) of each Gram matrix of unit vectors; the name is "" where no polytope of k vertices is near.

    The error is the root mean square difference, entry by entry, of the rows, each sorted, from the polytope's (its
    rows are all alike once sorted), or of the eigenvalues where that is larger: both are the same for every order of
    the vertices, and neither sees lengths.
    """
    k = gram.shape[-1]
    name, error = np.full(len(gram), "", dtype=object), np.full(len(gram), np.inf)
    rows, spectrum = np.sort(gram, axis=-1), np.linalg.eigvalsh(gram)
    for candidate, wanted in polytopes().items():
        if len(wanted) != k:
            continue
        off = np.sqrt(np.mean((rows - np.sort(wanted, axis=-1)) ** 2, axis=(-1, -2)))
        off = np.maximum(off, np.sqrt(np.mean((spectrum - np.linalg.eigvalsh(wanted)) ** 2, axis=-1) / k))
        nearer = off < error
        error = np.where(nearer, off, error)
        name = np.where(nearer & (off <= MATCH), candidate, np.where(nearer, "", name))
    return name, error


def clusters(
    weights: Float[ArrayLike, "instance feature width"],
    *,
    represented: float = REPRESENTED,
    orthogonal: float = ORTHOGONAL,
) -> pd.DataFrame:
    """Groups of represented features that are joined by pairs off a right angle, and the polytope each one forms.

    A feature is represented where |W_i|^2 > `represented` (alone on its direction its output is |W_i|^2 x_i). Two are
    joined where their angle differs from 90 degrees by more than `orthogonal`; groups are the connected components (the
    geometric graph of Elhage et al. 2022, with a threshold). Names come from `polytopes`, by angles alone: a deformed
    pentagon is one as long as its cosines are within 0.1, root mean square; a group of no known shape is called
    "4-cluster" and so on.

    Args:
        weights: W, (instance, feature, width); see `directions`.
        represented: > 0. orthogonal: degrees, in (0, 45].

    Returns:
        One row per group: instance, features (a tuple, ascending), size, rank (of the unit vectors: singular values
        above 0.3), name, error (see MATCH; infinite where no polytope has that many vertices) and dimensionality (the
        group's mean D_i, all represented features of the instance counted).

    Raises:
        InputError: weights without three axes or not finite, options out of range.
    """
    import pandas as pd  # slow to import

    where = "clusters"
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 3:
        raise InputError(f"{where}: weights must have shape (instance, feature, width), got {weights.shape}")
    if not np.isfinite(weights).all():
        raise InputError(f"{where}: weights must be finite; leave out instances that diverged")
    check_interval(where, "represented", represented, 0, open_low=True, open_high=True)
    check_interval(where, "orthogonal", orthogonal, 0, 45, open_low=True)
    part = max(1, ENTRIES // max(1, weights.shape[1] ** 2))
    pieces = [
        _clusters(weights[first : first + part], first, represented, np.sin(np.radians(orthogonal)))
        for first in range(0, max(len(weights), 1), part)
    ]
    return pd.concat(pieces, ignore_index=True)


def _clusters(weights: np.ndarray, first: int, represented: float, joined: float) -> pd.DataFrame:
    import pandas as pd  # slow to import

    count, n, _ = weights.shape
    squares = np.square(weights).sum(-1)
    on = squares > represented
    unit = weights / np.where(on, np.sqrt(squares), np.inf)[..., None]  # 0 where not represented
    cosines = unit @ unit.swapaxes(-1, -2)
    instance, i, j = np.nonzero(np.abs(cosines) > joined)
    graph = scipy.sparse.coo_array(
        (np.ones(len(i), bool), (instance * n + i, instance * n + j)), shape=(count * n, count * n)
    )
    label = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
    nodes = np.flatnonzero(on.reshape(-1))
    nodes = nodes[np.argsort(label[nodes], kind="stable")]
    starts = np.flatnonzero(np.diff(label[nodes], prepend=-1))
    sizes = np.diff(starts, append=len(nodes))
    shares = dimensionality(torch.from_numpy(np.where(on[..., None], weights, 0.0))).numpy().reshape(-1)
    found: dict[str, np.ndarray] = {
        "instance": nodes[starts] // max(n, 1) + first,
        "features": np.empty(len(starts), dtype=object),
        "size": sizes,
        "rank": np.zeros(len(starts), dtype=int),
        "name": np.empty(len(starts), dtype=object),
        "error": np.full(len(starts), np.inf),
        "dimensionality": np.zeros(len(starts)),
    }
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        members = nodes[starts[rows, None] + np.arange(size)]  # group k
        here, feature = members[:, 0] // n, members % n
        gram = cosines[here[:, None, None], feature[:, :, None], feature[:, None, :]]
        name, found["error"][rows] = _shapes_of(gram)
        found["name"][rows] = np.where(name == "", f"{size}-cluster", name)
        found["rank"][rows] = (np.linalg.eigvalsh(gram) > 0.3**2).sum(-1)
        found["dimensionality"][rows] = shares[members].mean(-1)
        for row, own in zip(rows, feature.tolist(), strict=True):
            found["features"][row] = tuple(own)
    return pd.DataFrame(found).sort_values(["instance", "features"], ignore_index=True)


def random_directions(weights: Float[ArrayLike, "*stack feature width"], seed: int = 0) -> np.ndarray:
    """Vectors as long as the features' in directions drawn evenly from the sphere, shape (..., feature, width): what a
    count of shapes finds where there are none. The same for the same seed.

    Raises:
        InputError: fewer than two axes.
    """
    weights = np.asarray(weights)
    if weights.ndim < 2:
        raise InputError(f"random_directions: weights must have shape (..., feature, width), got {weights.shape}")
    drawn = np.random.default_rng(seed).standard_normal(weights.shape)
    return drawn * (np.linalg.norm(weights, axis=-1, keepdims=True) / np.linalg.norm(drawn, axis=-1, keepdims=True))


def arrangements(weights: Float[ArrayLike, "instance feature width"], **options: float) -> np.ndarray:
    """What each instance's features form, in words (instance,): "pentagon", "2 digons, 1 ignored", "2 points".

    Groups as `clusters` names them, largest first, then how many features are not represented; options as there.
    """
    weights = np.asarray(weights)
    groups = clusters(weights, **options)
    count, n = weights.shape[:2]
    lost = np.full(count, n)
    np.subtract.at(lost, groups["instance"], groups["size"])
    tally = groups.groupby(["instance", "size", "name"]).size().reset_index(name="count")
    tally = tally.sort_values(["instance", "size", "name"], ascending=[True, False, True])
    words: list[list[str]] = [[] for _ in range(count)]
    for instance, name, times in zip(tally["instance"], tally["name"], tally["count"], strict=True):
        words[instance].append(name if times == 1 else f"{times} {name}s")
    for instance, ignored in enumerate(lost):
        words[instance] += [f"{ignored} ignored"] if ignored else []
    return np.array([", ".join(parts) for parts in words])
