"""One hidden layer, trained by one fused kernel: draws, forward, backward and AdamW without leaving the cache.

    h = x E          or  ReLU(x E + c)        E: (feature, neuron), the same matrix as D in a tied autoencoder
    y = h D^T + b    or  ReLU(h D^T + b)      D: (feature, neuron)
    loss = mean over samples of sum_i I_i |y_i - g(x_i)|^q,  q = 2 or 4,  g(x) = x, |x| or x + ReLU(x)

One instance is trained from its first step to its last before the next begins, so nothing but a few hundred kilobytes
is ever touched. Data lie feature by feature, samples along the SIMD lanes; sums stay in registers over tiles of six
rows by four registers. Two layouts: with few neurons hidden activations lie like the data ("narrow"), with many they
lie sample by sample, neurons along the lanes ("wide"), which needs no sums across lanes and lets single entries be
skipped.

What is left out where data are sparse, all of it exactly:
  samples without any active feature: their columns are squeezed out and counted; all are alike, so that one column
  computed once stands for them (and padding to whole registers is a negative number of them);
  wide only: inactive entries of x in h and in E's gradient, and entries whose output ReLU is off in D's gradient and
  in what goes back to h, as lists of entries instead of matrix products, where few enough are left.

Draws are those of `toysup.random`, bit for bit. The kernel is written once for float32 and float64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numba as nb
import numpy as np

from toysup import random
from toysup.kernels import tiles
from toysup.kernels.tiles import (
    ABSOLUTE,
    PLUS_RELU,
    adam,
    clear,
    contract,
    draw,
    outer,
    product,
    rectify,
    squeeze,
    through,
    totals,
    up,
)
from toysup.random import BLOCK, KEYS, TABLE, feature_tables, key_table, lane_tables
from toysup.simd import LANES, Emit, emitted, source_of

__all__ = ["Kind", "floats_needed", "kernel", "tile_of"]

CACHE, WIDE_CACHE = 40_000, 400_000  # bytes
EMPTY = 0.1  # share of empty samples from which they are squeezed out
SPARSE = 0.08  # share of active features below which the wide layout lists them
FIRED = 0.2  # share of outputs that are on, likewise


class Kind(NamedTuple):
    """What the code of a kernel depends on."""

    tied: bool
    hidden: bool  # ReLU and bias in the hidden layer
    relu: bool  # ReLU at the output
    power: int  # 2 or 4
    target: int
    magnitude: int
    wide: bool


@emitted
def _respond(e: Emit, s, out, ld, a, ar, ak, h, hk, rows, depth, columns, b, x, scale, sums, relu, power, target):
    """The output layer, its loss and the loss's derivative: out[f, c] = I_f |d|^(q-1) sign d, 0 where the ReLU is off.

    b, scale (I): one number for each row. sums: two registers for each row, to which the derivatives and |d|^q are
    added.
    """
    zero = e.constant(0.0)

    def start(r, c):
        return e.splat(e.scalar(s, e.add(b, r)))

    def finish(r, c, height, width, sums_here):
        for i in range(height):
            row = e.add(r, i)
            weight, slope, lost = e.splat(e.scalar(s, e.add(scale, row))), zero, zero
            for v in range(width):
                pre = sums_here[i * width + v]
                place = e.add(e.times(row, ld), c, LANES * v)
                wanted = e.load(s, e.add(x, place))
                positive = e.maximum(wanted, zero)
                if target == ABSOLUTE:
                    wanted = e.maximum(wanted, e.b.fsub(zero, wanted))
                elif target == PLUS_RELU:
                    wanted = e.b.fadd(wanted, positive)
                d = e.b.fsub(e.maximum(pre, zero) if relu else pre, wanted)
                square = e.b.fmul(d, d)
                if power == 2:
                    lost, g = e.fma(d, d, lost), e.b.fmul(d, weight)
                else:
                    lost, g = e.fma(square, square, lost), e.b.fmul(e.b.fmul(square, d), weight)
                if relu:
                    g = e.b.select(e.b.fcmp_ordered(">", pre, zero), g, zero)
                e.store(g, s, e.add(out, place))
                slope = e.b.fadd(slope, g)
            kept = e.add(sums, e.times(row, 2 * LANES))
            for position, value in enumerate((slope, lost)):
                e.store(e.b.fadd(e.load(s, e.add(kept, LANES * position)), value), s, e.add(kept, LANES * position))

    contract(e, s, a, ar, ak, h, hk, rows, depth, columns, start, finish)


def tile_of(n: int, m: int, batch: int, wide: bool) -> int:
    """Samples that are in work at once: a multiple of 64 such that their data stay in cache."""
    room = WIDE_CACHE if wide else CACHE
    return int(min(up(batch, BLOCK), max(2 * BLOCK, room // (8 * (n + m)) // BLOCK * BLOCK)))


def floats_needed(kind: Kind, n: int, m: int, tile: int, count: int) -> int:
    """Scratch for `kernel`, in numbers, for parameters padded to `count`."""
    matrices, mp = 2 - kind.tied, up(m)
    lanes = 0 if kind.wide else matrices * n * m
    used = 4 * count + 3 * up(n) + LANES * (2 * n + m * kind.hidden + lanes) + 2 * (n + m) * (tile + LANES)
    return int(used + kind.wide * 2 * mp * tile + BLOCK)


@lru_cache(maxsize=64)
def kernel(kind: Kind) -> Callable[..., None]:
    """The compiled kernel of one kind, from numba's cache on disk where it is there."""
    return _make(source_of(__file__, tiles.__file__, random.__file__), *(int(value) for value in kind))


def _make(source, tied, hidden, relu, power, target, magnitude, wide):
    @nb.njit(nogil=True, cache=True, error_model="numpy")
    def train(theta0, own, seeds, rates, schedule, edges, marks, history, snapshots, diverged, sizes, s, t):
        source  # noqa: B018
        density, importance = own
        n, m, batch, tile = sizes[0], sizes[1], sizes[2], sizes[3]
        ms = up(m) if wide else m
        ld, blocks = tile + LANES, up(batch, BLOCK) // BLOCK
        matrix = n * ms
        count = up(matrix * (2 - tied) + hidden * ms + n)
        at = 0  # where everything lies in s
        theta, gradient, first, second = at, at + count, at + 2 * count, at + 3 * count
        at += 4 * count
        limit, inverse, weight = at, at + up(n), at + 2 * up(n)
        at += 3 * up(n)
        E = theta
        D = theta if tied else theta + matrix
        c = D + matrix
        b = c + hidden * ms
        gE, gD, gc, gb = gradient + E - theta, gradient + D - theta, gradient + c - theta, gradient + b - theta
        slopes = at  # registers to be summed: n pairs for b and the loss, then those of c, then those of D and E
        at += 2 * LANES * n
        bent = at
        at += LANES * m * hidden
        laneD = at
        laneE = at if tied else at + LANES * matrix
        at += 0 if wide else LANES * matrix * (2 - tied)
        X, G = at, at + n * ld
        at += 2 * n * ld
        H, B = at, at + m * ld
        at += 2 * m * ld
        feature, lanes, masks = KEYS, KEYS + 3 * n, KEYS + 3 * n + TABLE * blocks
        steps = schedule.shape[0]

        for i in range(theta0.shape[0]):
            clear(s, theta, 4 * count)
            for j in range(theta0.shape[1]):
                s[theta + j] = theta0[i, j]
            empty = 1.0
            for f in range(n):
                p = density[i, f]
                s[limit + f] = p * np.float32(2147483648.0) if p < 1 else np.inf
                s[inverse + f] = (np.float32(1) / p) * np.float32(4.656612873077393e-10)
                s[weight + f] = importance[i, f]
                empty *= 1.0 - np.float64(p)
            sparse = empty > EMPTY
            seed = seeds[i]
            key_table(t, 0, seed, 0)
            lr, decay, beta1, beta2, eps = rates[i, 0], rates[i, 1], rates[i, 2], rates[i, 3], rates[i, 4]
            power1, power2, total, stretch, mark, died = 1.0, 1.0, 0.0, 0, 0, -1
            for step in range(steps):
                first0, first1 = (step & 0xFFFFFFFF) * 0xD2511F53, (step >> 32) * 0xCD9E8D57
                feature_tables(t, feature, n, seed, 0, first0, first1)
                lane_tables(t, lanes, blocks, seed, 0, first0, first1)
                clear(s, gradient, count)
                clear(s, slopes, X - slopes)
                shown = 0
                for start in range(0, batch, tile):
                    size = min(tile, batch - start)
                    here = (size + BLOCK - 1) // BLOCK
                    block0 = start // BLOCK
                    # ---- data
                    for block in range(here):
                        mask, table = 0, lanes + (block0 + block) * TABLE
                        for f in range(n):
                            row = X + f * ld + block * BLOCK
                            if sparse:
                                mask |= draw(s, row, t, 0, feature + 3 * f, table, limit + f, inverse + f, magnitude, 0)
                            else:
                                draw(s, row, t, 0, feature + 3 * f, table, limit + f, inverse + f, magnitude, 1)
                        t[masks + block] = mask
                    columns = size
                    if sparse:
                        if size % BLOCK:
                            t[masks + here - 1] &= (1 << (size % BLOCK)) - 1
                        for f in range(n):
                            columns = squeeze(s, X + f * ld, t, masks, here)
                    padded = up(columns)
                    if padded > columns:
                        for f in range(n):
                            for j in range(columns, padded):
                                s[X + f * ld + j] = 0
                    shown += padded
                    if padded == 0:
                        continue
                    # ---- forward, backward
                    product(s, H, ld, E, 1, ms, X, ld, m, n, padded, 0)
                    if hidden:
                        rectify(s, H, ld, m, padded, c)
                    _respond(s, G, ld, D, ms, 1, H, ld, n, m, padded, b, X, weight, slopes, relu, power, target)
                    product(s, B, ld, D, 1, ms, G, ld, m, n, padded, 0)
                    if hidden:
                        through(s, B, ld, H, m, padded, bent)
                    if tied:
                        outer(s, laneD, ms, G, H, n, m, padded, ld, X, B, 2)
                    else:
                        outer(s, laneD, ms, G, H, n, m, padded, ld, X, B, 1)
                        outer(s, laneE, ms, X, B, n, m, padded, ld, X, B, 1)
                # ---- the sums
                factor = np.float64(power) / batch
                totals(s, gb, slopes, 2 * LANES, n, factor)
                if hidden:
                    totals(s, gc, bent, LANES, m, factor)
                totals(s, gD, laneD, LANES, matrix, factor)
                if not tied:
                    totals(s, gE, laneE, LANES, matrix, factor)
                loss = 0.0
                zeros = batch - shown
                for f in range(n):
                    lost = 0.0
                    for j in range(LANES):
                        lost += s[slopes + 2 * LANES * f + LANES + j]
                    if zeros:
                        pre = s[b + f]
                        for k in range(m * hidden):
                            pre += s[D + f * ms + k] * max(s[c + k], 0)
                        y = max(pre, 0) if relu else pre
                        g = zeros * factor * s[weight + f] * (y if power == 2 else y * y * y)
                        lost += zeros * (y * y if power == 2 else y * y * y * y)
                        s[gb + f] += g
                        for k in range(m * hidden):
                            if s[c + k] > 0:
                                s[gD + f * ms + k] += g * s[c + k]
                                s[gc + k] += g * s[D + f * ms + k]
                    loss += s[weight + f] * lost
                loss /= batch
                sound = np.isfinite(loss)
                for j in range(count):
                    sound &= np.isfinite(s[gradient + j] * s[gradient + j])
                if not sound:
                    died = step
                    break
                # ---- AdamW
                power1 *= beta1
                power2 *= beta2
                rate = lr * schedule[step]
                adam(
                    s, theta, gradient, first, second, count, 1 - beta1, 1 - beta2, eps,
                    rate / (1 - power1), 1 / np.sqrt(1 - power2), 1 - rate * decay,
                )  # fmt: skip
                total += loss
                if step + 1 == edges[stretch + 1]:
                    history[i, stretch] = total / (edges[stretch + 1] - edges[stretch])
                    total, stretch = 0.0, stretch + 1
                if mark < marks.shape[0] and step + 1 == marks[mark]:
                    for j in range(theta0.shape[1]):
                        snapshots[mark, i, j] = s[theta + j]
                    mark += 1
            diverged[i] = died
            for j in range(theta0.shape[1]):
                theta0[i, j] = s[theta + j]
            if died >= 0:
                for h in range(stretch, history.shape[1]):
                    history[i, h] = np.nan
                for h in range(mark, marks.shape[0]):
                    for j in range(theta0.shape[1]):
                        snapshots[h, i, j] = s[theta + j]

    return train
