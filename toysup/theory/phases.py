"""What the best tied ReLU autoencoder does with n features in m dimensions: exact loss, global optimum, name.

The model is x' = relu(W W^T x + b) of "Toy Models of Superposition" (Elhage et al. 2022), x_i = U[0, 1] with
probability p_i and 0 otherwise, independently; the loss is E sum_i I_i (x_i - x'_i)^2, computed exactly by
`toy_kernels`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from toysup.checks import InputError, check_interval, check_room, check_whole, numbers_in
from toysup.theory.toy_kernels import best_of, losses_of

__all__ = ["ToyOptimum", "configuration", "expected_loss", "toy_branch", "toy_optimum"]

KEEP = 4  # starts followed to the bottom
MOST_PATTERNS = 64  # structured starts of each kind
NUDGE = 0.03  # standard deviation of what is added to structured weights
REPRESENTED = 0.25  # least ||W_i||^2 of a represented feature; see `configuration`
MOST_CHOICES = 7193  # of features on axes, at 8 features
MOST_FEATURES = 8  # a loss takes about 2 us at n = 2, 8 us at n = 3, 0.4 ms at n = 6, 4 times more per feature


# ------------------------------------------------------------------------------------------------------------ losses


def expected_loss(weights: ArrayLike, biases: ArrayLike, density: ArrayLike, importance: ArrayLike) -> np.ndarray:
    """E sum_i I_i (x_i - relu(W W^T x + b)_i)^2 of each instance, exactly: summed over features, not divided by n.

    The absolute error is about 1e-15 (sum_i I_i)(1 + |b| + |W W^T|)^2. The time grows about fourfold per feature.

    Args:
        weights: W, shape (..., n, m), n <= 8. biases: b, shape (..., n).
        density: P(x_i > 0) in (0, 1], either one number per instance, shape () or (...), or one per feature, shape
            (..., n). An array with at most as many axes as the instances have is read as the former, with one more
            as the latter; where both could be meant, give a last axis of length 1 or n.
        importance: I >= 0, shape (..., n). Leading axes broadcast.

    Returns:
        The loss, shape (...).

    Raises:
        InputError: shapes that do not fit, more than 8 features, densities outside (0, 1], importances below 0.
    """
    where = "expected_loss"
    weights, biases = numbers_in(where, "weights", weights), numbers_in(where, "biases", biases)
    importance = numbers_in(where, "importance", importance)
    if weights.ndim < 2:
        raise InputError(f"{where}: weights must have shape (..., n, m), got {weights.shape}")
    n, m = weights.shape[-2:]
    if biases.shape[-1:] != (n,):
        raise InputError(f"{where}: biases must have shape (..., {n}), got {biases.shape}")
    axes = max(weights.ndim - 2, biases.ndim - 1, importance.ndim - 1)
    lead, density, importance = _settings(where, n, density, importance, axes, (weights.shape[:-2], biases.shape[:-1]))
    weights, biases = np.broadcast_to(weights, (*lead, n, m)), np.broadcast_to(biases, (*lead, n))
    out = np.zeros(int(np.prod(lead)))
    losses_of(_flat(weights, 2), _flat(biases), _flat(density), _flat(importance), out)
    return np.maximum(out, 0.0).reshape(lead)  # rounding can put a loss of 0 just below it


def _flat(values: np.ndarray, kept: int = 1) -> np.ndarray:
    """A writable contiguous copy with one leading axis: the one array type the kernels are compiled for."""
    return np.array(values).reshape(-1, *values.shape[values.ndim - kept :]).copy()


def _settings(where, n, density, importance, axes, others=()):
    """The instances' common leading shape, and density and importance at shape (*lead, n)."""
    if n > MOST_FEATURES:
        raise InputError(f"{where}: n_features must be at most {MOST_FEATURES}, got {n}")
    check_interval(where, "density", density, 0, 1, open_low=True)
    density = numbers_in(where, "density", density)
    check_interval(where, "importance", importance, 0, open_high=True)
    importance = numbers_in(where, "importance", importance)
    if importance.shape[-1:] != (n,):
        raise InputError(f"{where}: importance must have shape (..., {n}), got {importance.shape}")
    given = density.shape
    if density.ndim <= axes:
        density = density[..., None]
    if density.shape[-1] not in (1, n):
        raise InputError(f"{where}: density must be one number or (..., {n}) numbers per instance, got shape {given}")
    try:
        lead = np.broadcast_shapes(density.shape[:-1], importance.shape[:-1], *others)
    except ValueError:
        shapes = [density.shape[:-1], importance.shape[:-1], *others]
        raise InputError(f"{where}: leading axes must broadcast, got {', '.join(map(str, shapes))}") from None
    return lead, np.broadcast_to(density, (*lead, n)), np.broadcast_to(importance, (*lead, n))


@dataclass(frozen=True)
class ToyOptimum:
    """Best autoencoders found: loss (...), weights (..., n, m), biases (..., n), name (a str or an array (...))."""

    loss: np.ndarray
    weights: np.ndarray
    biases: np.ndarray
    name: str | np.ndarray


def toy_optimum(
    n_features: int, width: int, density: ArrayLike, importance: ArrayLike, starts: int = 16, seed: int = 0
) -> ToyOptimum:
    """The lowest expected loss a tied ReLU autoencoder can reach at each setting, and where it reaches it.

    Minimises the exact loss from known configurations (every choice of features on axes, alone or as antipodal pairs,
    the others ignored; simplices; for width 2 polygons) and random starts; the lowest are followed to the bottom. That
    it is global is evidence, not proof: see the tests. At density 1 it is the best linear one (the less important
    features ignored, at their mean), unless importances are within about 1%: then clipping gains up to 0.1%. Leading
    axes are a grid of settings; the time per cell is about 1 ms for (n, m) = (2, 1), 5 ms for (3, 2), 0.4 s for (6, 2).

    Args:
        n_features: n, at most 8. width: m.
        density: p in (0, 1], shape () or (...), or per feature (..., n), as in `expected_loss`.
        importance: I >= 0, shape (..., n).
        starts: random starts besides the structured ones.
        seed: of the random starts; every cell gets the same ones.

    Returns:
        ToyOptimum; weights are rotated to be lower triangular with a diagonal >= 0, and of optima that differ by
        swapping features of equal density and importance the same one is chosen everywhere (the loss sees neither).

    Raises:
        InputError: sizes not whole and positive, n above 8, densities outside (0, 1], importances below 0 or of wrong
            length.
    """
    where = "toy_optimum"
    check_whole(where, "n_features", n_features)
    check_whole(where, "width", width)
    check_whole(where, "starts", starts, 0)
    check_whole(where, "seed", seed, 0)
    if n_features <= MOST_FEATURES:
        size = n_features * (width + 1)
        check_room(where, f"width = {width}, starts = {starts}", 8 * size * (size + starts + MOST_CHOICES))
    axes = max(numbers_in(where, "importance", importance).ndim - 1, 0)
    lead, density, importance = _settings(where, n_features, density, importance, axes)
    density, importance = _flat(density), _flat(importance)
    rng = np.random.Generator(np.random.Philox(seed))
    weights, ignored = _start_weights(n_features, width, starts, rng)
    # An ignored feature starts at its mean, a represented one at 0; `ignored` is the share of the mean in each bias.
    biases = ignored * density[:, None, :] / 2
    weights = np.broadcast_to(weights.reshape(1, len(weights), -1), (*biases.shape[:2], n_features * width))
    best = np.zeros((len(density), n_features * (width + 1)))
    losses = np.full(len(density), np.inf)
    best_of(np.concatenate([weights, biases], axis=-1), n_features, density, importance, KEEP, best, losses)
    weights, biases = best[:, : n_features * width].reshape(-1, n_features, width), best[:, n_features * width :]
    swap = _canonical_order(weights, density, importance)
    weights, biases = np.take_along_axis(weights, swap[..., None], axis=1), np.take_along_axis(biases, swap, axis=1)
    if n_features >= width:
        triangular = np.linalg.qr(np.swapaxes(weights, -1, -2), mode="r")
        signs = np.where(np.diagonal(triangular, axis1=-2, axis2=-1) < 0, -1.0, 1.0)
        weights = np.swapaxes(signs[..., None] * triangular, -1, -2)
    weights, biases = weights.reshape(*lead, n_features, width), biases.reshape(*lead, n_features)
    return ToyOptimum(np.maximum(losses, 0.0).reshape(lead)[()], weights, biases, configuration(weights))


def _canonical_order(weights: np.ndarray, density: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """A permutation (cell, n) of features of equal density and importance: represented, least interfering, longest.

    The loss is the same for all of them; without it equal optima would get a name at random.
    """
    same = (density[:, :, None] == density[:, None]) & (importance[:, :, None] == importance[:, None])
    kind = np.argmax(same, axis=-1)
    gram = weights @ np.swapaxes(weights, -1, -2)
    squares = np.diagonal(gram, axis1=-2, axis2=-1)
    interference = np.sum(gram**2, axis=-1) - squares**2
    source = np.lexsort((-squares, np.round(interference, 6), squares <= REPRESENTED, kind), axis=-1)
    target = np.argsort(kind, axis=-1, kind="stable")
    order = np.empty_like(source)
    np.put_along_axis(order, target, source, axis=-1)
    return order


def _start_weights(n: int, width: int, starts: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Starting weights (starts, n, width), and (starts, n) marks of the features they ignore."""
    patterns = []
    groups = [(i,) for i in range(n)] + list(itertools.combinations(range(n), 2))  # what one axis can hold
    for axes in range(min(width, n) + 1):
        for chosen in _apart(groups, axes):
            pattern = np.zeros((n, width))
            for axis, group in enumerate(chosen):
                pattern[list(group), axis] = [1.0, -1.0][: len(group)]
            patterns.append(pattern)
    if len(patterns) > MOST_PATTERNS:
        patterns = [patterns[k] for k in rng.choice(len(patterns), MOST_PATTERNS, replace=False)]
    if 1 < width < n:
        centred = np.eye(width + 1) - 1 / (width + 1)
        simplex = np.linalg.svd(centred)[0][:, :width] * np.sqrt(1 + 1 / width)
        for chosen in itertools.islice(itertools.combinations(range(n), width + 1), MOST_PATTERNS):
            pattern = np.zeros((n, width))
            pattern[list(chosen)] = simplex
            patterns.append(pattern)
    if width == 2 and n > 3:
        angle = 2 * np.pi * _cyclic_orders(n, rng) / n
        patterns += list(np.stack([np.cos(angle), np.sin(angle)], axis=-1))
    weights = np.array(patterns)
    ignored = (np.sum(weights**2, axis=-1) == 0) * 1.0
    weights = weights + NUDGE * rng.standard_normal(weights.shape)  # off the saddles that symmetry makes
    scale = rng.uniform(0.3, 1.0, (starts, 1, 1)) * np.sqrt(1.0 / width)
    weights = np.concatenate([weights, scale * rng.standard_normal((starts, n, width))])
    return weights, np.concatenate([ignored, rng.uniform(-0.5, 0.5, (starts, n))])


def _apart(groups: list[tuple[int, ...]], count: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Every choice of so many groups that share no member, in the order of itertools.combinations."""
    if not count:
        yield ()
    for place, first in enumerate(groups if count else ()):
        rest = [group for group in groups[place + 1 :] if not set(first) & set(group)]
        for others in _apart(rest, count - 1):
            yield (first, *others)


def _cyclic_orders(n: int, rng: np.random.Generator) -> np.ndarray:
    """Every way to seat n >= 3 features around a circle, turned and mirrored ones once, (order, n): each one's place.

    There are (n - 1)! / 2, which differ where importances or densities do; of more than MOST_PATTERNS a random choice.
    """
    rest = np.array([p for p in itertools.permutations(range(1, n)) if p[0] < p[-1]])
    if len(rest) > MOST_PATTERNS:
        rest = rest[rng.choice(len(rest), MOST_PATTERNS, replace=False)]
    return np.argsort(np.insert(rest, 0, 0, axis=1), axis=1)


def toy_branch(
    weights: ArrayLike,
    biases: ArrayLike,
    density: ArrayLike,
    importance: ArrayLike,
    nudge: float = NUDGE,
    seed: int = 0,
) -> ToyOptimum:
    """A local minimum of the expected loss, followed along a path of settings; a path of one is plain descent.

    The first setting descends (BFGS) from the weights and biases given, each later one from where the last ended, both
    from there and from a random step away, which leaves saddle points; the lower of the two is kept. Where the minimum
    ceases to be one the descent leaves it, and the name, the loss or the weights jump: a geometry's limit of stability
    (its spinodal), while two branches' losses cross where the optimum changes. A shallow minimum may be left earlier.

    Args:
        weights: W, (n, m). biases: b, (n,).
        density: p in (0, 1], one number, (path,) or (path, n). importance: I >= 0, (n,) or (path, n).
        nudge: standard deviation of the random step of W. seed: of the steps.

    Returns:
        ToyOptimum along the path: loss (path,), weights (path, n, m) as they were reached, biases (path, n), name.

    Raises:
        InputError: shapes that do not fit, settings out of range, more than 8 features, a negative nudge.
    """
    where = "toy_branch"
    weights, biases = numbers_in(where, "weights", weights), numbers_in(where, "biases", biases)
    if weights.ndim != 2 or biases.shape != weights.shape[:1]:
        raise InputError(f"{where}: expected weights (n, m) and biases (n,), got {weights.shape} and {biases.shape}")
    check_interval(where, "nudge", nudge, 0, one=True)
    check_whole(where, "seed", seed, 0)
    n, m = weights.shape
    lead, density, importance = _settings(where, n, density, importance, 1)
    if len(lead) > 1:
        raise InputError(f"{where}: expected one path of settings, got leading axes {lead}")
    density, importance = _flat(density), _flat(importance)
    rng = np.random.Generator(np.random.Philox(seed))
    at = np.concatenate([weights.reshape(-1), biases])
    best, losses = np.zeros((len(density), len(at))), np.full(len(density), np.inf)
    for k in range(len(density)):
        start = np.stack([at, at])[None]
        start[0, 1, : n * m] += nudge * rng.standard_normal(n * m)
        here = slice(k, k + 1)
        best_of(start, n, density[here], importance[here], 2, best[here], losses[here])
        at = best[k]
    weights = best[:, : n * m].reshape(-1, n, m)
    return ToyOptimum(np.maximum(losses, 0.0), weights, best[:, n * m :], configuration(weights))


# ------------------------------------------------------------------------------------------------------------- names


def configuration(weights: ArrayLike, represented: float = REPRESENTED, orthogonal: float = 15.0) -> str | np.ndarray:
    """What an autoencoder's weights do with each feature, in words; for trained and optimal weights alike.

    A feature is represented if ||W_i||^2 > `represented`. Alone on its direction a feature's output is ||W_i||^2 x_i,
    so 0 is ignored and 1 is full; 1/4 is half-way in ||W_i||. It is a name only: a represented feature need not be
    recovered. Represented features within `orthogonal` degrees of a right angle (half-way to a triangle's 120) count as
    orthogonal. The others fall into groups joined by non-orthogonal pairs, each named alone: "dedicated" (one feature),
    "antipodal" (two, more than 150 degrees apart, half-way from a triangle), "aligned" (two, less than 30 degrees
    apart), "triangle" (three, all 105 to 150 degrees apart), else "entangled". Features count from 1. With two features
    and one dimension the names are "none", "first", "second", "superposed" (antipodal) and "aligned".

    Args:
        weights: W, shape (..., n, m).
        represented: least ||W_i||^2 of a represented feature, > 0.
        orthogonal: degrees, in (0, 30].

    Returns:
        A str, such as "1-2 antipodal; 3 dedicated" or "1, 2 dedicated; 3 ignored"; with leading axes an array (...) of
        them.

    Raises:
        InputError: weights without two axes, options out of range.
    """
    where = "configuration"
    weights = numbers_in(where, "weights", weights)
    if weights.ndim < 2 or not min(weights.shape[-2:]):
        raise InputError(f"{where}: weights must have shape (..., n, m), got {weights.shape}")
    check_interval(where, "represented", represented, 0, open_low=True, open_high=True, one=True)
    check_interval(where, "orthogonal", orthogonal, 0, 30, open_low=True, one=True)
    lead, (n, m) = weights.shape[:-2], weights.shape[-2:]
    norms = np.linalg.norm(weights, axis=-1)
    on = norms**2 > represented
    unit = weights / np.where(norms > 0, norms, 1.0)[..., None]
    angle = np.degrees(np.arccos(np.clip(unit @ np.swapaxes(unit, -1, -2), -1.0, 1.0)))
    # 0 aligned, 1 oblique, 2 orthogonal, 3 as in a triangle, 4 antipodal; 2 wherever a feature is not represented
    relation = np.digitize(angle, [30.0, 90.0 - orthogonal, 90.0 + orthogonal, 150.0])
    relation = np.where(on[..., :, None] & on[..., None, :], relation, 2)
    codes = np.concatenate([on.reshape(-1, n), relation.reshape(-1, n * n)], axis=-1)
    kinds, which = np.unique(codes, axis=0, return_inverse=True)
    names = np.array([_name(code[:n] > 0, code[n:].reshape(n, n), m) for code in kinds] or [""])
    named = names[which.reshape(lead)]
    return named if lead else str(named)


def _name(on: np.ndarray, relation: np.ndarray, width: int) -> str:
    n = len(on)
    left = [i for i in range(n) if on[i]]
    if not left:
        return "none"
    if (n, width) == (2, 1):
        both = {4: "superposed", 0: "aligned"}
        return both[int(relation[0, 1])] if on.all() else ("first" if on[0] else "second")
    single, joined = [], []
    while left:
        group = [left[0]]
        for i in group:  # grows while it is read
            group += [j for j in left if j not in group and relation[i, j] != 2]
        left = [i for i in left if i not in group]
        pairs = {int(relation[i, j]) for i, j in itertools.combinations(group, 2)}
        label = {(2, 4): "antipodal", (2, 0): "aligned", (3, 3): "triangle"}.get((len(group), *pairs), "entangled")
        if len(group) == 1:
            single.append(group[0] + 1)
        else:
            joined.append(f"{'-'.join(str(i + 1) for i in sorted(group))} {label}")
    ignored = [i + 1 for i in range(n) if not on[i]]
    for some, word in ((single, "dedicated"), (ignored, "ignored")):
        if some:
            joined.append(f"{', '.join(map(str, some))} {word}")
    return "; ".join(joined)
