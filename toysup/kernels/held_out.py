"""Errors of one hidden layer on data it was not trained on, summed by a kernel batch by batch.

    h = x E  or  ReLU(x E + c)              E: (feature, neuron); c may be 0
    y = h D^T + b    or  ReLU(h D^T + b)    D: (feature, neuron)
    error of a score: |y_i - g(x_i)|^2;  loss: sum_i I_i |y_i - g(x_i)|^q

for the networks, distributions and targets of `toysup.kernels.shallow`. One kernel serves all of them, so that it is
compiled once, in seconds; what differs between them costs little here, where the draws take most of the time.

Draws are those of `toysup.random`, bit for bit. Products are in float32; what is summed over samples is in float64, in
an order that depends on nothing. Nothing is left out: a weight that is not a number shows wherever torch would show it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numba as nb
import numpy as np

from toysup import random
from toysup.jit import njit
from toysup.kernels import tiles
from toysup.kernels.tiles import (
    ABSOLUTE,
    BOOLEAN,
    IN_TURN,
    PLUS_RELU,
    SIGNED,
    UNIFORM,
    draw,
    draw_group,
    draw_member,
    up,
)
from toysup.random import BLOCK, KEYS, M0, TABLE, feature_tables, key_table, lane_products, lane_tables
from toysup.simd import source_of

__all__ = ["Sizes", "ints_needed", "kernel", "tile_of"]

CACHE = 200_000
ZERO, HALF, ONE, TWO = (np.float32(value) for value in (0, 0.5, 1, 2))
NOTHING = np.float32(-np.inf)


class Sizes(NamedTuple):
    """What the instances of a stack share."""

    n: int
    m: int
    groups: int  # of features, those that have uniforms of their own
    batch: int  # samples, a multiple of 64
    tile: int  # of them go through the network at once
    stream: int
    hidden: int  # whether the hidden layer has a ReLU
    relu: int
    power: int  # 2 or 4
    target: int
    magnitude: int
    grouped: int
    enough: int  # samples that show something, from which on nobody counts


def tile_of(n: int, m: int, batch: int) -> int:
    """Samples that go through the network at once: a batch, divided by 2 until what they become stays in cache."""
    while batch % (2 * BLOCK) == 0 and 4 * (n + m + 1) * batch > CACHE:
        batch //= 2
    return batch


def ints_needed(sizes: Sizes) -> int:
    """Whole numbers of 64 bits that tables take."""
    return int(up(KEYS + 3 * (sizes.groups + sizes.n), 8) + TABLE * (sizes.batch // BLOCK))


# ------------------------------------------------------------------------------------------------------------- samples


@nb.njit(nogil=True)
def valued(x, count, magnitude):
    """From v, uniform on (0, 1), the values of active features; the others are 0 and stay so."""
    if magnitude == SIGNED:
        for c in range(count):
            x[c] = ZERO if x[c] == ZERO else x[c] + x[c] - ONE
    elif magnitude == BOOLEAN:
        for c in range(count):
            x[c] = ZERO if x[c] == ZERO else ONE
    elif magnitude != UNIFORM:
        for c in range(count):
            x[c] = ZERO if x[c] == ZERO else -ONE if x[c] < HALF else ONE


@nb.njit(nogil=True)
def sample(s, t, lanes, limit, inverse, which, sizes):
    """A batch of x, (tile, feature, sample), at the start of s."""
    n, groups, tile = sizes.n, sizes.groups, sizes.tile
    for f in range(n):
        group = member = 0
        if sizes.grouped:
            group = f // (n // groups)
            member = f - group * (n // groups)
            if member == 0:
                for first in range(0, sizes.batch, BLOCK):
                    table = lanes + first // BLOCK * TABLE
                    draw_group(s, which + first, t, 0, KEYS + 3 * group, table, limit)
            if sizes.grouped != IN_TURN:
                member = 0
        feature = KEYS + 3 * (groups + f)
        for first in range(0, sizes.batch, BLOCK):
            number, table = first // tile, lanes + first // BLOCK * TABLE
            at = (number * n + f) * tile + first - number * tile
            if sizes.grouped:
                draw_member(s, at, t, 0, feature, table, which + first, member, UNIFORM)
            else:
                draw(s, at, t, 0, feature, table, limit + f, inverse + f, UNIFORM, 1)


# ------------------------------------------------------------------------------------------------------------ evidence


@nb.njit(nogil=True)
def aim(x, target):
    """g(x)."""
    above = TWO if target == PLUS_RELU else ONE
    below = -ONE if target == ABSOLUTE else ONE
    return x * (below if x < ZERO else above)


@nb.njit(nogil=True)
def largest(keys, most):
    """The largest key that is no more than `most`."""
    found = np.int32(-(2**31))
    for c in range(len(keys)):
        found = max(found, keys[c] if keys[c] <= most else found)
    return found


@nb.njit(nogil=True)
def usual(X, f, target, values, keys):
    """The median of a feature's targets: of an even number the lower one of two, as `torch.median` has it.

    By halving the range of whole numbers that are in the same order, until just as many as wanted are left, in loops
    without branches. `values` and `keys` are the same memory.
    """
    rank, negative, zero = (values.size - 1) // 2, 0, 0
    for q in range(len(X)):
        x, value = X[q, f], values[q]
        for c in range(len(x)):
            wanted = aim(x[c], target)
            value[c] = wanted
            negative += wanted < ZERO
            zero += wanted == ZERO
    if negative <= rank < negative + zero:
        return ZERO
    for c in range(len(keys)):
        keys[c] ^= (keys[c] >> 31) & 0x7FFFFFFF
    low, high = -(2**31), 2**31 - 1
    while low < high:  # the lowest with more than `rank` up to it
        half = (low + high) >> 1
        at, count = np.int32(half), 0
        for c in range(len(keys)):
            count += keys[c] <= at
        if count == rank + 1:
            low = high = largest(keys, at)
        elif count > rank:
            high = half
        else:
            low = half + 1
    keys[0] = low ^ ((low >> 31) & 0x7FFFFFFF)
    return values[0, 0]


@nb.njit(nogil=True)
def differing(away, X, f, target, rest):
    """In how many samples a feature's target is not the usual one; `away` is where that of any so far was."""
    count = 0
    for q in range(len(X)):
        x, gone = X[q, f], away[q]
        for c in range(len(x)):
            differs = aim(x[c], target) != rest
            gone[c] = differs | (gone[c] & (f > 0))
            count += differs
    return count


@nb.njit(nogil=True)
def marked(away):
    """How many samples are."""
    count = 0
    for q in range(len(away)):
        gone = away[q]
        for c in range(len(gone)):
            count += gone[c]
    return count


# -------------------------------------------------------------------------------------------------------------- errors


@nb.njit(nogil=True, error_model="numpy")
def layer(out, x, weights, bias, floor):
    """out[c] = max(sum_d weights[d] x[d, c] + bias, floor); what is not a number stays so."""
    depth, count = len(weights), len(out)
    rest = depth % 4
    for c in range(count):
        out[c] = ZERO
    for d in range(rest):
        weight, row = weights[d], x[d]
        for c in range(count):
            out[c] += weight * row[c]
    for d in range(rest, depth, 4):  # fewer writes
        w0, w1, w2, w3 = weights[d], weights[d + 1], weights[d + 2], weights[d + 3]
        x0, x1, x2, x3 = x[d], x[d + 1], x[d + 2], x[d + 3]
        for c in range(count):
            out[c] += (w0 * x0[c] + w1 * x1[c]) + (w2 * x2[c] + w3 * x3[c])
    for c in range(count):
        value = out[c] + bias
        out[c] = floor if value < floor else value


@nb.njit(nogil=True, error_model="numpy")
def missed(y, x, target):
    """y = |y - g(x)|^2."""
    for c in range(len(y)):
        difference = y[c] - aim(x[c], target)
        y[c] = difference * difference


@nb.njit(nogil=True, error_model="numpy")
def gather(sums, values, again):
    """Add values, or their squares, to 64 sums in turn."""
    for first in range(0, len(values), BLOCK):
        if again:
            for j in range(BLOCK):
                sums[j] += np.float64(values[first + j] * values[first + j])
        else:
            for j in range(BLOCK):
                sums[j] += np.float64(values[first + j])


@nb.njit(nogil=True, error_model="numpy")
def total(sums):
    """The sum of 64 sums, halves added first; they start anew at 0."""
    half = BLOCK // 2
    while half:
        for j in range(half):
            sums[j] += sums[j + half]
            sums[j + half] = 0.0
        half //= 2
    found = sums[0]
    sums[0] = 0.0
    return found


@lru_cache(maxsize=1)
def kernel() -> Callable[..., None]:
    """The compiled kernel, from numba's cache on disk where it is there."""
    return _make(source_of(__name__, tiles.__name__, random.__name__))


def _make(source):
    @njit(nogil=True, error_model="numpy")
    def evaluate(
        encode, decode, biases, density, importance, seeds, batches, sizes, errors, loss, evidence, shown,
        s, X, h, y, values, keys, away, t, sums, sides,
    ):  # fmt: skip
        """Means over the samples of each group of batches, added up in float64 and handed back in `errors`
        (instance, group, feature) and `loss` (instance, group); counts in `evidence` (instance, feature) and `shown`.

        encode: E^T, (instance, neuron, feature). decode: D, (instance, feature, neuron). biases: c and b, (instance,
        neuron + feature). Scratch, as `toysup.ensemble.held_out` has it: s, of which X (tile, feature, sample) and
        `values`, the same as `keys`, are the start; what a tile becomes, h and y; where targets were `away` from usual;
        t; sums over samples (feature, 2, 64) and over batches, `sides` (group, 1 + feature), all at 0.
        """
        source  # noqa: B018
        n, m, batch, stream, target = sizes.n, sizes.m, sizes.batch, sizes.stream, sizes.target
        draws, blocks, parts = sizes.groups + n, batch // BLOCK, loss.shape[1]
        low = ZERO if sizes.hidden else NOTHING  # of what comes out of a layer
        floor = ZERO if sizes.relu else NOTHING
        which = X.size
        limit = which + batch
        inverse, rest = limit + n, limit + 2 * n
        lanes = up(KEYS + 3 * draws, 8)  # from a cache line's start: rows of tables are whole lines
        for i in range(len(seeds)):
            for f in range(n):
                p = density[i, f]
                s[limit + f] = p if sizes.grouped else np.inf if p >= 1 else p * np.float32(2147483648.0)
                s[inverse + f] = (ONE / p) * np.float32(4.656612873077393e-10)
                evidence[i, f] = 0
            shown[i], counting = 0, True
            key_table(t, 0, seeds[i], stream)
            lane_products(t, lanes, blocks, seeds[i], 0)
            for number in range(batches[i]):
                feature_tables(t, KEYS, draws, seeds[i], stream, number * M0, 0)
                lane_tables(t, lanes, blocks, stream, number * M0)
                sample(s, t, lanes, limit, inverse, which, sizes)
                valued(s, X.size, sizes.magnitude)
                if counting:
                    counting = False
                    for f in range(n):
                        if number == 0:
                            s[rest + f] = usual(X, f, target, values, keys)
                        evidence[i, f] += differing(away, X, f, target, s[rest + f])
                        counting |= evidence[i, f] < sizes.enough
                    shown[i] += marked(away)
                    counting |= shown[i] < sizes.enough
                for q in range(len(X)):
                    x = X[q]
                    for k in range(m):
                        layer(h[k], x, encode[i, k], biases[i, k], low)
                    for f in range(n):
                        layer(y, h, decode[i, f], biases[i, m + f], floor)
                        missed(y, x[f], target)
                        gather(sums[f, 0], y, False)
                        if sizes.power == 4:
                            gather(sums[f, 1], y, True)
                side = sides[number % parts]
                for f in range(n):
                    lost = total(sums[f, 0])
                    side[1 + f] += lost
                    if sizes.power == 4:
                        lost = total(sums[f, 1])
                    side[0] += importance[i, f] * lost
            for part in range(parts):
                samples = batches[i] // parts * batch
                loss[i, part] = sides[part, 0] / samples
                sides[part, 0] = 0.0
                for f in range(n):
                    errors[i, part, f] = sides[part, 1 + f] / samples
                    sides[part, 1 + f] = 0.0

    return evaluate
