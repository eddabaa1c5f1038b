"""Errors of one hidden layer on data it was not trained on, summed by one kernel without ever keeping a batch.

    h = x E  or  ReLU(x E + c)              E: (feature, neuron); c may be 0
    y = h D^T + b    or  ReLU(h D^T + b)    D: (feature, neuron)
    error of a score: |y_i - g(x_i)|^2;  loss: sum_i I_i |y_i - g(x_i)|^q

for networks, distributions and targets of `toysup.kernels.shallow`. One kernel serves all of them: it is compiled in
seconds, and is no slower than several would be. Samples are drawn, bit for bit as `toysup.random` has them, and looked
at in tiles that stay in cache. Products are in float32; what is summed over samples is in float64, always in the same
order. Nothing is left out: a weight that is not a number shows wherever torch would show it.
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
    product,
    up,
)
from toysup.random import BLOCK, KEYS, M0, TABLE, feature_tables, key_table, lane_products, lane_tables
from toysup.simd import LANES, source_of

__all__ = ["Sizes", "floats_needed", "ints_needed", "kernel", "sums_needed", "tile_of"]

CACHE = 40_000  # bytes
ZERO, ONE, TWO, HALF = (np.float32(value) for value in (0, 1, 2, 0.5))


class Sizes(NamedTuple):
    """What instances of a stack share."""

    n: int
    m: int
    groups: int  # of features, those that have uniforms of their own
    batch: int  # samples, a multiple of 64
    tile: int  # of them are in work at once
    stream: int
    hidden: int  # whether the hidden layer has a ReLU
    relu: int
    power: int  # 2 or 4
    target: int
    magnitude: int
    grouped: int
    enough: int  # samples that show something, after which nobody counts on


def tile_of(n: int, m: int, batch: int) -> int:
    """Samples that are in work at once: a batch divided by 2 until their data stay in cache."""
    while batch % (2 * BLOCK) == 0 and 4 * (2 * n + m) * batch > CACHE:
        batch //= 2
    return batch


def floats_needed(sizes: Sizes) -> int:
    """Scratch for `kernel`, in numbers of float32."""
    n, m, ld = sizes.n, sizes.m, sizes.tile + LANES
    return int(up(2 * n * m + m + 4 * n) + sizes.batch + max((2 * n + m) * ld, sizes.batch))


def ints_needed(sizes: Sizes) -> int:
    """Likewise in whole numbers of 64 bits."""
    return int(up(KEYS + 3 * (sizes.groups + sizes.n), 8) + TABLE * (sizes.batch // BLOCK))


def sums_needed(sizes: Sizes, groups: int) -> int:
    """Likewise in numbers of float64, for so many groups of batches."""
    return int(2 * sizes.n * BLOCK + groups * (sizes.n + 1))


@nb.njit(nogil=True)
def valued(x, magnitude):
    """From v, uniform on (0, 1), the values of active features; the others are 0 and stay so."""
    if magnitude == SIGNED:
        for c in range(len(x)):
            x[c] = ZERO if x[c] == ZERO else x[c] + x[c] - ONE
    elif magnitude == BOOLEAN:
        for c in range(len(x)):
            x[c] = ZERO if x[c] == ZERO else ONE
    elif magnitude != UNIFORM:
        for c in range(len(x)):
            x[c] = ZERO if x[c] == ZERO else -ONE if x[c] < HALF else ONE


@nb.njit(nogil=True, error_model="numpy")
def rectified(h, bias):
    """h = ReLU(h + bias); NaN stays NaN."""
    for c in range(len(h)):
        value = h[c] + bias
        h[c] = ZERO if value < ZERO else value


@nb.njit(nogil=True, error_model="numpy")
def squared(y, x, bias, floor, below, above):
    """y = |max(y + bias, floor) - g(x)|^2, g(x) = `below` x for negative x, else `above` x."""
    for c in range(len(x)):
        value = y[c] + bias
        value = floor if value < floor else value
        missed = value - x[c] * (below if x[c] < ZERO else above)
        y[c] = missed * missed


@nb.njit(nogil=True, error_model="numpy")
def gather(sums, values):
    """Add values to 64 sums in turn."""
    for first in range(0, len(values), BLOCK):
        part = values[first : first + BLOCK]
        for j in range(BLOCK):
            sums[j] += np.float64(part[j])


@nb.njit(nogil=True, error_model="numpy")
def gather_squares(sums, values):
    """Likewise the squares of values."""
    for first in range(0, len(values), BLOCK):
        part = values[first : first + BLOCK]
        for j in range(BLOCK):
            sums[j] += np.float64(part[j] * part[j])


@nb.njit(nogil=True, error_model="numpy")
def total(sums):
    """The sum of 64 sums, halves added first."""
    half = BLOCK // 2
    while half:
        for j in range(half):
            sums[j] += sums[j + half]
        half //= 2
    return sums[0]


@nb.njit(nogil=True)
def middle(values):
    """The median, of an even number the lower one of two, as `torch.median` has it. Values are not NaN, and are lost.

    By halving the range of keys, whole numbers in the order of the values: loops without branches.
    """
    rank, negative, zero = (len(values) - 1) // 2, 0, 0
    for c in range(len(values)):
        negative += values[c] < ZERO
        zero += values[c] == ZERO
    if negative <= rank < negative + zero:
        return ZERO
    keys = values.view(np.int32)
    for c in range(len(keys)):
        keys[c] ^= (keys[c] >> 31) & 0x7FFFFFFF
    low, high = -(2**31), 2**31 - 1
    while low < high:  # the lowest key with more than `rank` up to it
        half = (low + high) >> 1
        at, count = np.int32(half), 0
        for c in range(len(keys)):
            count += keys[c] <= at
        if count > rank:
            high = half
        else:
            low = half + 1
    keys[0] = low ^ ((low >> 31) & 0x7FFFFFFF)
    return values[0]


@nb.njit(nogil=True)
def differing(away, x, rest, below, above):
    """In how many samples the target is not the usual one; `away` is where any was."""
    count = 0
    for c in range(len(x)):
        differs = x[c] * (below if x[c] < ZERO else above) != rest
        away[c] |= differs
        count += differs
    return count


@nb.njit(nogil=True)
def sample(s, at, t, lanes, blocks, f, which, limit, inverse, n, groups, grouped, magnitude):
    """Values of one feature at s[at:], for blocks of 64 samples whose tables start at t[lanes]. The first feature of a
    group leaves at s[which:] what the others go by."""
    if grouped:
        members = n // groups
        group = f // members
        member = f - group * members
        if member == 0:
            for k in range(blocks):
                draw_group(s, which + k * BLOCK, t, 0, KEYS + 3 * group, lanes + k * TABLE, limit)
        if grouped != IN_TURN:
            member = 0
        feature = KEYS + 3 * (groups + f)
        for k in range(blocks):
            place, asked = at + k * BLOCK, which + k * BLOCK
            draw_member(s, place, t, 0, feature, lanes + k * TABLE, asked, member, UNIFORM)
    else:
        for k in range(blocks):
            place, table = at + k * BLOCK, lanes + k * TABLE
            draw(s, place, t, 0, KEYS + 3 * f, table, limit + f, inverse + f, UNIFORM, 1)
    valued(s[at : at + blocks * BLOCK], magnitude)


@lru_cache(maxsize=1)
def kernel() -> Callable[..., None]:
    """The compiled kernel, from numba's cache on disk where it is there."""
    return _make(source_of(__file__, tiles.__file__, random.__file__))


def _make(source):
    @njit(nogil=True, error_model="numpy")
    def evaluate(E0, D0, c0, b0, density, importance, seeds, batches, sizes, errors, loss, evidence, shown, s, t, w):
        """Means over the samples of each group of batches into `errors` (group, instance, feature) and `loss` (group,
        instance); counts into `evidence` (instance, feature) and `shown` (instance)."""
        source  # noqa: B018
        n, m, groups, batch, tile, stream = sizes.n, sizes.m, sizes.groups, sizes.batch, sizes.tile, sizes.stream
        ld, parts, grouped, magnitude = tile + LANES, errors.shape[0], sizes.grouped, sizes.magnitude
        floor = ZERO if sizes.relu else np.float32(-np.inf)
        above = TWO if sizes.target == PLUS_RELU else ONE
        below = -ONE if sizes.target == ABSOLUTE else ONE
        E, D, c = 0, n * m, 2 * n * m  # where everything lies in s
        b = c + m
        limit, inverse, rest = b + n, b + 2 * n, b + 3 * n
        which = up(b + 4 * n)
        X = which + batch
        H, Y = X + n * ld, X + (n + m) * ld
        lanes = up(KEYS + 3 * (groups + n), 8)  # from a cache line's start: rows of tables are whole lines
        quartic, lost = n * BLOCK, 2 * n * BLOCK  # in w, behind sums of squares; then sums by group: loss, errors
        away = np.zeros(tile, np.bool_)
        for i in range(E0.shape[0]):
            for f in range(n):
                for k in range(m):
                    s[E + f * m + k], s[D + f * m + k] = E0[i, f, k], D0[i, f, k]
                p = density[i, f]
                s[b + f] = b0[i, f]
                s[limit + f] = p if grouped else np.inf if p >= 1 else p * np.float32(2147483648.0)
                s[inverse + f] = (ONE / p) * np.float32(4.656612873077393e-10)
                evidence[i, f] = 0
            for k in range(m):
                s[c + k] = c0[i, k]
            w[lost : lost + parts * (n + 1)] = 0.0
            shown[i], counting = 0, True
            seed = seeds[i]
            key_table(t, 0, seed, stream)
            lane_products(t, lanes, batch // BLOCK, seed, 0)
            for number in range(batches[i]):
                feature_tables(t, KEYS, groups + n, seed, stream, number * M0, 0)
                lane_tables(t, lanes, batch // BLOCK, stream, number * M0)
                if number == 0:
                    for f in range(n):
                        blocks = batch // BLOCK
                        sample(s, X, t, lanes, blocks, f, which, limit, inverse, n, groups, grouped, magnitude)
                        targets = s[X : X + batch]
                        for j in range(batch):
                            targets[j] *= below if targets[j] < ZERO else above
                        s[rest + f] = middle(targets)
                w[:lost] = 0.0
                for start in range(0, batch, tile):
                    table, blocks = lanes + start // BLOCK * TABLE, tile // BLOCK
                    for f in range(n):
                        at = X + f * ld
                        sample(s, at, t, table, blocks, f, which, limit, inverse, n, groups, grouped, magnitude)
                    if counting:
                        away[:] = False
                        for f in range(n):
                            x = s[X + f * ld : X + f * ld + tile]
                            evidence[i, f] += differing(away, x, s[rest + f], below, above)
                        for j in range(tile):
                            shown[i] += away[j]
                    product(s, H, ld, E, 1, m, X, ld, m, n, tile, 0, 0)
                    if sizes.hidden:
                        for k in range(m):
                            rectified(s[H + k * ld : H + k * ld + tile], s[c + k])
                    product(s, Y, ld, D, m, 1, H, ld, n, m, tile, 0, 0)
                    for f in range(n):
                        x, y = s[X + f * ld : X + f * ld + tile], s[Y + f * ld : Y + f * ld + tile]
                        squared(y, x, s[b + f], floor, below, above)
                        gather(w[f * BLOCK : (f + 1) * BLOCK], y)
                        if sizes.power == 4:
                            gather_squares(w[quartic + f * BLOCK : quartic + (f + 1) * BLOCK], y)
                if counting:
                    counting = shown[i] < sizes.enough
                    for f in range(n):
                        counting |= evidence[i, f] < sizes.enough
                place = lost + number % parts * (n + 1)
                for f in range(n):
                    missed = total(w[f * BLOCK : (f + 1) * BLOCK])
                    w[place + 1 + f] += missed
                    if sizes.power == 4:
                        missed = total(w[quartic + f * BLOCK : quartic + (f + 1) * BLOCK])
                    w[place] += importance[i, f] * missed
            for part in range(parts):
                place, samples = lost + part * (n + 1), batches[i] // parts * batch
                loss[part, i] = w[place] / samples
                for f in range(n):
                    errors[part, i, f] = w[place + 1 + f] / samples

    return evaluate
