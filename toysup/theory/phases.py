"""What the best tied ReLU autoencoder does with n features in m dimensions: exact loss, global optimum, name.

The model is x' = relu(W W^T x + b) of "Toy Models of Superposition" (Elhage et al. 2022), x_i = U[0, 1] with
probability p_i and 0 otherwise, independently; the loss is E sum_i I_i (x_i - x'_i)^2. Given which features are active,
each output is relu(affine) over a unit cube, so the loss and its gradient need only the volume, centroid and second
moments of the part of a cube on one side of a plane. `_cut_moments` gives these in closed form without cancellation;
nothing is sampled.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike

from .compressed_sensing import _require, _require_whole

__all__ = ["ToyOptimum", "configuration", "expected_loss", "toy_optimum"]

BRIEF, THOROUGH = 8, 300  # BFGS steps before and after the starts are thinned out
KEEP = 4  # starts followed to the bottom
MOST_PATTERNS = 64  # structured starts of each kind
SETTLED = 1e-14  # stop once a full step promises less than this part of the loss
REPRESENTED = 0.25  # least ||W_i||^2 of a represented feature; see `configuration`
MOST_FEATURES = 8  # a loss takes about 2 us at n = 2, 8 us at n = 3, 0.4 ms at n = 6, 4 times more per feature


# ---------------------------------------------------------------------------------------- moments of a cut unit cube
#
# I(k, u, x^r) is the integral over a unit cube of x^r u_+^k / k!, u = offset + sum_j slopes[j] x_j with slopes >= 0
# that fall, and k = 0 the step function. Where u keeps its sign this is 0 or a polynomial with positive coefficients.
# Else the variable of largest slope is integrated by parts from offset ("low") to offset + slope ("high"):
#
#     I(k, x^0) = [high I(k+1) - low I(k+1)] / slope,      I(k, x^r) = [high I(k+1) - r I(k+1, x^(r-1))] / slope.
#
# Nothing cancels: as the offset is < 0, the largest slope is at least 1/(q - 1) of what the other variables can add to
# u, so the two ends differ by a factor. The splits form a binary tree, kept as a heap (children of h: 2h low, 2h + 1
# high). A node at depth d holds [1, x][1, x]^T at k = d, [1, x] at k = d + 1 and [1] at k = d + 2; that is just what
# its parent needs.


class _Work(NamedTuple):
    """Room for one tree. Index 0 of a moment stands for 1, index j + 1 for variable j; lower triangles are kept."""

    order: np.ndarray  # (n,) the variables, by falling slope
    size: np.ndarray  # (n,) their absolute slopes
    offset: np.ndarray  # (2^(n+1),) u at the node's corner of smallest u
    kind: np.ndarray  # (2^(n+1),) 0 unused, 1 zero, 2 polynomial, 3 split
    second: np.ndarray  # (2^(n+1), n+1, n+1)
    first: np.ndarray  # (2^(n+1), n+1)
    zeroth: np.ndarray  # (2^(n+1),)
    series: np.ndarray  # (n+3,)
    moments: np.ndarray  # (n+1, n+1) the result


@numba.njit(cache=True)
def _room(n):
    heap = 2 ** (n + 1)
    return _Work(
        np.zeros(n, dtype=np.int64),
        np.zeros(n),
        np.zeros(heap),
        np.zeros(heap, dtype=np.int64),
        np.zeros((heap, n + 1, n + 1)),
        np.zeros((heap, n + 1)),
        np.zeros(heap),
        np.zeros(n + 3),
        np.zeros((n + 1, n + 1)),
    )


@numba.njit(cache=True)
def _polynomial(k, offset, size, depth, count, one, other, series):
    """I(k, u, x_one x_other) for u >= 0 over the variables from `depth` to `count`; index 0 stands for the factor 1."""
    series[0] = 1.0
    for i in range(1, k + 1):
        series[i] = series[i - 1] * offset / i  # series[i]: the integral of u^i / i! over the variables taken so far
    for j in range(depth, count):
        power = (j + 1 == one) + (j + 1 == other)
        for i in range(k, -1, -1):
            total = 0.0
            term = 1.0
            for r in range(i + 1):
                total += series[i - r] * term / (r + power + 1)
                term *= size[j] / (r + 1)
            series[i] = total
    return series[k]


@numba.njit(cache=True)
def _fill_polynomial(h, depth, count, work):
    second, first, zeroth = work.second, work.first, work.zeroth
    offset, size, series, constant = work.offset[h], work.size, work.series, np.int64(0)
    for i in range(count + 1):
        if i == 0 or i > depth:
            for j in range(i + 1):
                if j == 0 or j > depth:
                    second[h, i, j] = _polynomial(depth, offset, size, depth, count, i, j, series)
            first[h, i] = _polynomial(depth + 1, offset, size, depth, count, i, constant, series)
    zeroth[h] = _polynomial(depth + 2, offset, size, depth, count, constant, constant, series)


@numba.njit(cache=True)
def _fill_split(h, depth, count, work):
    second, first, zeroth = work.second, work.first, work.zeroth
    low, high, v = 2 * h, 2 * h + 1, depth + 1
    inverse = 1.0 / work.size[depth]
    for i in range(count + 1):
        if i == 0 or i > v:
            for j in range(i + 1):
                if j == 0 or j > v:
                    second[h, i, j] = (second[high, i, j] - second[low, i, j]) * inverse
            first[h, i] = (first[high, i] - first[low, i]) * inverse
            second[h, max(i, v), min(i, v)] = (second[high, i, 0] - first[h, i]) * inverse
    zeroth[h] = (zeroth[high] - zeroth[low]) * inverse
    first[h, v] = (first[high, 0] - zeroth[h]) * inverse
    second[h, v, v] = (second[high, 0, 0] - 2.0 * first[h, v]) * inverse


@numba.njit(cache=True)
def _cut_moments(row, count, work):
    """Fill work.moments: [1, x][1, x]^T integrated over {row . [1, x] > 0} in the cube of `count` variables."""
    order, size, offset, kind, moments = work.order, work.size, work.offset, work.kind, work.moments
    offset[1] = row[0]
    rise = 0.0
    for j in range(count):
        offset[1] += min(row[j + 1], 0.0)  # x -> 1 - x where the slope is negative, undone at the end
        steep = abs(row[j + 1])
        if steep < 1e-100:
            steep = 0.0  # so that no division overflows
        rise += steep
        place = j
        while place > 0 and size[place - 1] < steep:
            order[place], size[place] = order[place - 1], size[place - 1]
            place -= 1
        order[place], size[place] = j, steep
    if offset[1] + rise <= 0.0 or offset[1] >= 0.0:
        whole = 1.0 if offset[1] + rise > 0.0 else 0.0
        for i in range(count + 1):
            for j in range(count + 1):
                moments[i, j] = whole * (0.5 if i else 1.0) * (0.5 if j else 1.0)
            if i:
                moments[i, i] = whole / 3.0
        return
    if count == 1:
        cut = -row[0] / row[1]
        for i in range(2):
            for j in range(2):
                below = cut ** (i + j + 1)
                moments[i, j] = (1.0 - below if row[1] > 0.0 else below) / (i + j + 1)
        return
    kind[1] = 3
    for depth in range(1, count + 1):
        rise = 0.0
        for j in range(count - 1, depth - 1, -1):
            rise += size[j]
        for h in range(2**depth, 2 ** (depth + 1)):
            kind[h] = 0
            if kind[h // 2] == 3:
                offset[h] = offset[h // 2] + (h % 2) * size[depth - 1]
                kind[h] = 1 if offset[h] + rise <= 0.0 else (2 if offset[h] >= 0.0 else 3)
    for depth in range(count, -1, -1):
        for h in range(2**depth, 2 ** (depth + 1)):
            if kind[h] == 1:
                for i in range(count + 1):
                    for j in range(i + 1):
                        work.second[h, i, j] = 0.0
                    work.first[h, i] = 0.0
                work.zeroth[h] = 0.0
            elif kind[h] == 2:
                _fill_polynomial(h, depth, count, work)
            elif kind[h] == 3:
                _fill_split(h, depth, count, work)
    root = work.second[1]
    moments[0, 0] = root[0, 0]
    for i in range(count):
        moments[0, order[i] + 1] = root[i + 1, 0]
        for j in range(i + 1):
            moments[order[i] + 1, order[j] + 1] = root[i + 1, j + 1]
            moments[order[j] + 1, order[i] + 1] = root[i + 1, j + 1]
    for j in range(1, count + 1):
        if row[j] < 0.0:
            for i in range(1, count + 1):
                if i != j:
                    moments[i, j] = moments[0, i] - moments[i, j]
                    moments[j, i] = moments[i, j]
            moments[j, j] += moments[0, 0] - 2.0 * moments[0, j]
            moments[0, j] = moments[0, 0] - moments[0, j]
    for j in range(1, count + 1):
        moments[j, 0] = moments[0, j]


# --------------------------------------------------------------------------------------------------- the exact loss


@numba.njit(cache=True)
def _loss_and_gradient(weights, biases, density, importance, by_gram, by_bias, work):
    """Expected loss of one instance; fills its derivatives by b and by the n^2 entries of W W^T, as if independent."""
    n = len(biases)
    gram = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            for k in range(weights.shape[1]):
                gram[i, j] += weights[i, k] * weights[j, k]
    by_gram[:] = 0.0
    by_bias[:] = 0.0
    loss = 0.0
    row = np.zeros(n + 1)  # u = row . [1, x], x the active features
    active = np.zeros(n, dtype=np.int64)
    for support in range(2**n):
        probability = 1.0
        count = 0
        for j in range(n):
            if support >> j & 1:
                probability *= density[j]
                active[count] = j
                count += 1
            else:
                probability *= 1.0 - density[j]
        if probability == 0.0:
            continue
        for i in range(n):
            weight = probability * importance[i]
            if weight == 0.0:
                continue
            row[0] = biases[i]
            own = 0  # which of [1, x] is x_i; 0 where i is inactive
            for j in range(count):
                row[j + 1] = gram[i, active[j]]
                if active[j] == i:
                    own = j + 1
            _cut_moments(row, np.int64(count), work)  # the cast keeps numba from compiling a second copy for 0
            # E (x_i - relu(u))^2 = E x_i^2 + E [u > 0] u (u - 2 x_i); its derivative by row is 2 E [u > 0] (u - x_i)
            # [1, x]
            if own:
                loss += weight / 3.0
            for j in range(count + 1):
                u_times = 0.0
                for k in range(count + 1):
                    u_times += row[k] * work.moments[k, j]
                x_times = work.moments[own, j] if own else 0.0
                loss += weight * row[j] * (u_times - 2.0 * x_times)
                if j:
                    by_gram[i, active[j - 1]] += 2.0 * weight * (u_times - x_times)
                else:
                    by_bias[i] += 2.0 * weight * (u_times - x_times)
    return loss


@numba.njit(cache=True, nogil=True)
def _losses(weights, biases, density, importance, out):
    n = biases.shape[1]
    by_gram, by_bias, work = np.zeros((n, n)), np.zeros(n), _room(n)
    for instance in range(len(out)):
        out[instance] = _loss_and_gradient(
            weights[instance], biases[instance], density[instance], importance[instance], by_gram, by_bias, work
        )


@numba.njit(cache=True)
def _objective(parameters, n, density, importance, gradient, by_gram, by_bias, work):
    """The loss as a function of the flat vector [W, b]; fills `gradient`."""
    width = len(parameters) // n - 1
    weights = parameters[: n * width].reshape(n, width)
    loss = _loss_and_gradient(weights, parameters[n * width :], density, importance, by_gram, by_bias, work)
    for i in range(n):
        for k in range(width):
            total = 0.0
            for j in range(n):
                total += (by_gram[i, j] + by_gram[j, i]) * weights[j, k]
            gradient[i * width + k] = total
        gradient[n * width + i] = by_bias[i]
    return loss


@numba.njit(cache=True)
def _dot(left, right):
    total = 0.0
    for i in range(len(left)):
        total += left[i] * right[i]
    return total


@numba.njit(cache=True)
def _restart(inverse):
    for i in range(len(inverse)):
        for j in range(len(inverse)):
            inverse[i, j] = 1.0 if i == j else 0.0


@numba.njit(cache=True)
def _descend(x, n, density, importance, iterations, by_gram, by_bias, work):
    """BFGS with backtracking from the flat vector x = [W, b], in place; returns the loss reached."""
    size = len(x)
    gradient, new_gradient, change = np.zeros(size), np.zeros(size), np.zeros(size)
    step, new_x, image = np.zeros(size), np.zeros(size), np.zeros(size)
    inverse = np.zeros((size, size))
    _restart(inverse)
    fresh = True  # whether `inverse` is still a multiple of the identity
    loss, length = np.inf, 0.0
    for iteration in range(iterations + 1):
        # The first round only evaluates the start: one call of the objective in the code, for the compiler's sake.
        if iteration:
            for i in range(size):
                step[i] = -_dot(inverse[i], gradient)
            slope = _dot(step, gradient)
            if slope >= 0.0:
                _restart(inverse)
                fresh = True
                for i in range(size):
                    step[i] = -gradient[i]
                slope = -_dot(gradient, gradient)
            if -slope <= SETTLED * loss:
                break
            length = 1.0
        else:
            slope = 0.0
        new_loss = np.inf
        for _ in range(30):
            for i in range(size):
                new_x[i] = x[i] + length * step[i]
            new_loss = _objective(new_x, n, density, importance, new_gradient, by_gram, by_bias, work)
            if new_loss <= loss + 1e-4 * length * slope:
                break
            length *= 0.3
        if new_loss >= loss:
            if fresh:
                break
            _restart(inverse)
            fresh = True
            continue
        for i in range(size):
            change[i] = new_gradient[i] - gradient[i]
            gradient[i] = new_gradient[i]
            x[i] = new_x[i]
        loss = new_loss
        curvature, roughness = length * _dot(step, change), _dot(change, change)
        if iteration and curvature > 1e-14 * roughness:
            if fresh:
                for i in range(size):
                    inverse[i, i] = curvature / roughness
                fresh = False
            for i in range(size):
                image[i] = _dot(inverse[i], change)
            scale = (1.0 + _dot(change, image) / curvature) * length / curvature
            for i in range(size):
                for j in range(size):
                    cross = image[i] * step[j] + step[i] * image[j]
                    inverse[i, j] += (scale * step[i] * step[j] - cross / curvature) * length
    return loss


@numba.njit(cache=True, nogil=True)
def _best(starts, n, density, importance, keep, best, losses):
    """For each cell, descend a little from all starts and fully from the `keep` lowest; fills best and losses."""
    by_gram, by_bias, work = np.zeros((n, n)), np.zeros(n), _room(n)
    count = starts.shape[1]
    reached = np.zeros(count)
    for cell in range(len(starts)):
        trial = starts[cell]
        for turn in range(count + min(keep, count)):
            s = turn if turn < count else np.argmin(reached)
            steps = BRIEF if turn < count else THOROUGH
            loss = _descend(trial[s], n, density[cell], importance[cell], np.int64(steps), by_gram, by_bias, work)
            reached[s] = loss if turn < count else np.inf
            if loss < losses[cell]:
                losses[cell] = loss
                for i in range(len(best[cell])):
                    best[cell, i] = trial[s, i]


# ------------------------------------------------------------------------------------------------------- public part


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
        ValueError: shapes that do not fit, more than 8 features, densities outside (0, 1], importances below 0.
    """
    where = "expected_loss"
    weights, biases = np.asarray(weights, dtype=np.float64), np.asarray(biases, dtype=np.float64)
    importance = np.asarray(importance, dtype=np.float64)
    if weights.ndim < 2:
        raise ValueError(f"{where}: weights must have shape (..., n, m), got {weights.shape}")
    n, m = weights.shape[-2:]
    if biases.shape[-1:] != (n,):
        raise ValueError(f"{where}: biases must have shape (..., {n}), got {biases.shape}")
    axes = max(weights.ndim - 2, biases.ndim - 1, importance.ndim - 1)
    lead, density, importance = _settings(where, n, density, importance, axes, (weights.shape[:-2], biases.shape[:-1]))
    weights, biases = np.broadcast_to(weights, (*lead, n, m)), np.broadcast_to(biases, (*lead, n))
    out = np.zeros(int(np.prod(lead)))
    _losses(_flat(weights, 2), _flat(biases), _flat(density), _flat(importance), out)
    return np.maximum(out, 0.0).reshape(lead)  # rounding can put a loss of 0 just below it


def _flat(values: np.ndarray, kept: int = 1) -> np.ndarray:
    """A writable contiguous copy with one leading axis: the one array type the kernels are compiled for."""
    return np.array(values).reshape(-1, *values.shape[values.ndim - kept :]).copy()


def _settings(where, n, density, importance, axes, others=()):
    """The instances' common leading shape, and density and importance at shape (*lead, n)."""
    if n > MOST_FEATURES:
        raise ValueError(f"{where}: n_features must be at most {MOST_FEATURES}, got {n}")
    density = _require(where, "density", density, 0, 1)
    importance = _require(where, "importance", importance, 0, np.inf, "[)")
    if importance.shape[-1:] != (n,):
        raise ValueError(f"{where}: importance must have shape (..., {n}), got {importance.shape}")
    given = density.shape
    if density.ndim <= axes:
        density = density[..., None]
    if density.shape[-1] not in (1, n):
        raise ValueError(f"{where}: density must be one number or (..., {n}) numbers per instance, got shape {given}")
    try:
        lead = np.broadcast_shapes(density.shape[:-1], importance.shape[:-1], *others)
    except ValueError:
        shapes = [density.shape[:-1], importance.shape[:-1], *others]
        raise ValueError(f"{where}: leading axes must broadcast, got {', '.join(map(str, shapes))}") from None
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
        ValueError: sizes not whole and positive, n above 8, densities outside (0, 1], importances below 0 or of wrong
            length.
    """
    where = "toy_optimum"
    _require_whole(where, "n_features", n_features)
    _require_whole(where, "width", width)
    _require_whole(where, "starts", starts, 0)
    _require_whole(where, "seed", seed, 0)
    axes = max(np.ndim(importance) - 1, 0)
    lead, density, importance = _settings(where, n_features, density, importance, axes)
    density, importance = _flat(density), _flat(importance)
    rng = np.random.Generator(np.random.Philox(seed))
    weights, ignored = _start_weights(n_features, width, starts, rng)
    # An ignored feature starts at its mean, a represented one at 0; `ignored` is the share of the mean in each bias.
    biases = ignored * density[:, None, :] / 2
    weights = np.broadcast_to(weights.reshape(1, len(weights), -1), (*biases.shape[:2], n_features * width))
    best = np.zeros((len(density), n_features * (width + 1)))
    losses = np.full(len(density), np.inf)
    _best(np.concatenate([weights, biases], axis=-1), n_features, density, importance, KEEP, best, losses)
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
    for axes in range(width + 1):
        for chosen in itertools.combinations(groups, axes):
            if len(set(sum(chosen, ()))) == len(sum(chosen, ())):
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
        for _ in range(4):
            angle = 2 * np.pi * rng.permutation(n) / n
            patterns.append(np.stack([np.cos(angle), np.sin(angle)], axis=-1))
    weights = np.array(patterns)
    ignored = (np.sum(weights**2, axis=-1) == 0) * 1.0
    weights = weights + 0.03 * rng.standard_normal(weights.shape)  # off the saddles that symmetry makes
    scale = rng.uniform(0.3, 1.0, (starts, 1, 1)) * np.sqrt(1.0 / width)
    weights = np.concatenate([weights, scale * rng.standard_normal((starts, n, width))])
    return weights, np.concatenate([ignored, rng.uniform(-0.5, 0.5, (starts, n))])


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
        ValueError: weights without two axes, options out of range.
    """
    where = "configuration"
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim < 2:
        raise ValueError(f"{where}: weights must have shape (..., n, m), got {weights.shape}")
    _require(where, "represented", represented, 0, np.inf, "()")
    _require(where, "orthogonal", orthogonal, 0, 30)
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
