"""Compiled: the exact expected loss of a tied ReLU autoencoder, its gradient, and descent on it.

The model is x' = relu(W W^T x + b) of "Toy Models of Superposition" (Elhage et al. 2022), x_i = U[0, 1] with
probability p_i and 0 otherwise, independently; the loss is E sum_i I_i (x_i - x'_i)^2. Given which features are active,
each output is relu(affine) over a unit cube, so the loss and its gradient need only the volume, centroid and second
moments of the part of a cube on one side of a plane. `_cut_moments` gives these in closed form without cancellation;
nothing is sampled.

All of it stays in one file: numba's cache notices a change in the file of the function it compiled, but not in another
file that the function calls into.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from toysup.jit import njit

__all__ = ["best_of", "losses_of"]

BRIEF, THOROUGH = 8, 300  # BFGS steps before and after the starts are thinned out
SETTLED = 1e-14  # stop once a full step promises less than this part of the loss


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


@njit
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


@njit
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


@njit
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


@njit
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


@njit
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


@njit
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


@njit(nogil=True)
def losses_of(weights, biases, density, importance, out):
    n = biases.shape[1]
    by_gram, by_bias, work = np.zeros((n, n)), np.zeros(n), _room(n)
    for instance in range(len(out)):
        out[instance] = _loss_and_gradient(
            weights[instance], biases[instance], density[instance], importance[instance], by_gram, by_bias, work
        )


@njit
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


@njit
def _dot(left, right):
    total = 0.0
    for i in range(len(left)):
        total += left[i] * right[i]
    return total


@njit
def _restart(inverse):
    for i in range(len(inverse)):
        for j in range(len(inverse)):
            inverse[i, j] = 1.0 if i == j else 0.0


@njit
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


@njit(nogil=True)
def best_of(starts, n, density, importance, keep, best, losses):
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
