"""One hidden layer, trained by one fused kernel: draws, forward, backward and AdamW without leaving the cache.

    h = x E  or  ReLU(x E)  or  ReLU(x E + c)  E: (feature, neuron), the same matrix as D in a tied autoencoder
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

Features are independent, or in groups as `toysup.features.Correlated` has them. Draws are those of `toysup.random`, bit
for bit. The kernel is written once for float32 and float64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numba as nb
import numpy as np
from llvmlite import ir

from toysup import random
from toysup.jit import njit
from toysup.kernels import tiles
from toysup.kernels.tiles import (
    ABSOLUTE,
    IN_TURN,
    PLUS_RELU,
    adam,
    clear,
    contract,
    draw,
    draw_group,
    draw_member,
    entries,
    listed,
    outer,
    product,
    rectify,
    rectify_rows,
    scale,
    spread,
    squeeze,
    through,
    through_rows,
    totals,
    turned,
    up,
)
from toysup.random import BLOCK, KEYS, M0, TABLE, feature_tables, key_table, lane_products, lane_tables
from toysup.simd import LANES, Emit, emitted, source_of

__all__ = ["Kind", "floats_needed", "kernel", "tile_of"]

CACHE, WIDE_CACHE = 40_000, 400_000  # bytes
FEW = 20  # n (m + 1) up to which all of a network's sums fit into registers
EMPTY = 0.25  # share of empty samples from which they are squeezed out
SPARSE = 0.18  # share of active features below which the wide layout lists them
FIRED = 0.3  # share of outputs that are on, likewise


class Kind(NamedTuple):
    """What the code of a kernel depends on."""

    tied: bool
    hidden: bool  # ReLU in the hidden layer, and room for a bias
    bias: bool  # whether that bias is trained; else it stays 0
    relu: bool  # ReLU at the output
    power: int  # 2 or 4
    target: int
    magnitude: int
    grouped: int  # ALONE, TOGETHER or IN_TURN
    wide: bool
    n: int  # features and neurons, where they are few enough to be written out; else 0
    m: int


def output(e: Emit, pre, x, weight, relu, power, target) -> tuple[ir.Value, ir.Value]:
    """(I |d|^(q-1) sign d, 0 where the ReLU is off; |d|^q), d = y - g(x), of 16 samples."""
    zero = e.constant(0.0)
    wanted = x
    if target == ABSOLUTE:
        wanted = e.maximum(x, e.b.fsub(zero, x))
    elif target == PLUS_RELU:
        wanted = e.b.fadd(x, e.maximum(x, zero))
    d = e.b.fsub(e.maximum(pre, zero) if relu else pre, wanted)
    lost = e.b.fmul(d, d, flags=("contract",))
    slope = e.b.fmul(d, weight)
    if power == 4:
        slope, lost = e.b.fmul(lost, slope), e.b.fmul(lost, lost, flags=("contract",))
    return e.b.select(e.b.fcmp_ordered(">", pre, zero), slope, zero) if relu else slope, lost


@emitted
def respond(e: Emit, s, out, ld, a, ar, ak, h, hk, rows, depth, columns, b, x, scale, sums, relu, power, target):
    """The output layer, its loss and the loss's derivative: out[f, c] = I_f |d|^(q-1) sign d, 0 where the ReLU is off.

    b, scale (I): one number for each row. sums: two registers for each row, to which the derivatives and |d|^q are
    added.
    """

    def start(r, c):
        return e.splat(e.scalar(s, e.add(b, r)))

    def finish(r, c, height, width, tile):
        for i in range(height):
            row = e.add(r, i)
            weight = e.splat(e.scalar(s, e.add(scale, row)))
            kept = e.add(sums, e.times(row, 2 * LANES))
            slope, lost = e.load(s, kept), e.load(s, e.add(kept, LANES))
            for v in range(width):
                place = e.add(e.times(row, ld), c, LANES * v)
                g, missed = output(e, tile[i * width + v], e.load(s, e.add(x, place)), weight, relu, power, target)
                e.store(g, s, e.add(out, place))
                slope, lost = e.b.fadd(slope, g), e.b.fadd(lost, missed, flags=("contract",))
            e.store(slope, s, kept)
            e.store(lost, s, e.add(kept, LANES))

    contract(e, s, a, ar, ak, h, hk, rows, depth, columns, start, finish)


@emitted
def whole(e: Emit, s, W, b, X, ld, columns, scale, slopes, lanes, n, m, relu, power, target):
    """Forward and backward of a tied autoencoder without hidden ReLU, all sums in registers: for few features.

    slopes: a register for each entry of b, then one for the loss; lanes: one for each entry of W.
    """

    def entry(f: int, k: int) -> ir.Value:
        return e.splat(e.scalar(s, e.add(W, f * m + k)))

    def strip(c: ir.Value, held: list[ir.Value]) -> list[ir.Value]:
        new = list(held)
        x = [e.load(s, e.add(X, e.times(ld, f), c)) for f in range(n)]
        h = [e.constant(0.0)] * m
        for f in range(n):
            h = [e.fma(entry(f, k), x[f], h[k]) for k in range(m)]
        back = [e.constant(0.0)] * m
        for f in range(n):
            pre, weight = (e.splat(e.scalar(s, e.add(at, f))) for at in (b, scale))
            for k in range(m):
                pre = e.fma(entry(f, k), h[k], pre)
            g, lost = output(e, pre, x[f], weight, relu, power, target)
            new[f], new[n] = e.b.fadd(new[f], g), e.fma(lost, weight, new[n])
            for k in range(m):
                place = n + 1 + f * m + k
                back[k], new[place] = e.fma(entry(f, k), g, back[k]), e.fma(g, h[k], new[place])
        for f in range(n):
            for k in range(m):
                place = n + 1 + f * m + k
                new[place] = e.fma(x[f], back[k], new[place])
        return new

    places = [e.add(slopes, LANES * j) for j in range(n + 1)] + [e.add(lanes, LANES * j) for j in range(n * m)]
    sums = e.loop(0, columns, LANES, [e.load(s, place) for place in places], strip)
    for place, value in zip(places, sums, strict=True):
        e.store(value, s, place)


def tile_of(n: int, m: int, batch: int, wide: bool) -> int:
    """Samples that are in work at once: a multiple of 64 such that their data stay in cache."""
    room = WIDE_CACHE if wide else CACHE
    return int(min(up(batch, BLOCK), max(2 * BLOCK, room // (8 * (n + m)) // BLOCK * BLOCK)))


def floats_needed(kind: Kind, n: int, m: int, tile: int, count: int) -> int:
    """Scratch for `kernel`, in numbers, for parameters padded to `count`."""
    matrices, mp = 2 - kind.tied, up(m)
    lanes = 0 if kind.wide else matrices * n * m
    used = BLOCK + 4 * count + 4 * up(n + 1) + LANES * (2 * n + m * kind.hidden + lanes) + 2 * (n + m) * (tile + LANES)
    return int(used + kind.wide * (2 * mp * tile + (n + 1) * tile + LANES) + BLOCK)


def ints_needed(kind: Kind, n: int, groups: int, tile: int, batch: int) -> int:
    """Likewise in whole numbers of 64 bits; `groups` have uniforms of their own."""
    blocks = up(batch, BLOCK) // BLOCK
    keys = up(KEYS + 3 * (groups + n), 8)
    return int(keys + (TABLE + 1) * blocks + kind.wide * (n + 1 + (n + 1) * tile // 2 + LANES))


@nb.njit(nogil=True)
def forward(s, t, index, values, count, ld, row, out):
    """h of each listed sample += its value times the feature's row of E."""
    for c in range(0, ld, 4 * LANES):
        width = (ld - c) // LANES
        if width == 1:
            spread(s, t, index, values, count, ld, row + c, out + c, 0, 0, 1, 1, 0)
        elif width == 2:
            spread(s, t, index, values, count, ld, row + c, out + c, 0, 0, 2, 1, 0)
        elif width == 3:
            spread(s, t, index, values, count, ld, row + c, out + c, 0, 0, 3, 1, 0)
        else:
            spread(s, t, index, values, count, ld, row + c, out + c, 0, 0, 4, 1, 0)


@nb.njit(nogil=True)
def backward(s, t, index, values, count, ld, row, out, gradient, other):
    """What goes back to h, and the gradient of the feature's row of D."""
    for c in range(0, ld, 4 * LANES):
        width = (ld - c) // LANES
        if width == 1:
            spread(s, t, index, values, count, ld, row + c, out + c, gradient + c, other + c, 1, 1, 1)
        elif width == 2:
            spread(s, t, index, values, count, ld, row + c, out + c, gradient + c, other + c, 2, 1, 1)
        elif width == 3:
            spread(s, t, index, values, count, ld, row + c, out + c, gradient + c, other + c, 3, 1, 1)
        else:
            spread(s, t, index, values, count, ld, row + c, out + c, gradient + c, other + c, 4, 1, 1)


@nb.njit(nogil=True)
def collect(s, t, index, values, count, ld, gradient, other):
    """The gradient of the feature's row of E."""
    for c in range(0, ld, 4 * LANES):
        width = (ld - c) // LANES
        if width == 1:
            spread(s, t, index, values, count, ld, 0, 0, gradient + c, other + c, 1, 0, 1)
        elif width == 2:
            spread(s, t, index, values, count, ld, 0, 0, gradient + c, other + c, 2, 0, 1)
        elif width == 3:
            spread(s, t, index, values, count, ld, 0, 0, gradient + c, other + c, 3, 0, 1)
        else:
            spread(s, t, index, values, count, ld, 0, 0, gradient + c, other + c, 4, 0, 1)


@lru_cache(maxsize=64)
def kernel(kind: Kind) -> Callable[..., None]:
    """The compiled kernel of one kind, from numba's cache on disk where it is there."""
    return _make(source_of(__name__, tiles.__name__, random.__name__), *(int(value) for value in kind))


def _make(source, tied, hidden, bias, relu, power, target, magnitude, grouped, wide, few, neurons):
    @njit(nogil=True, error_model="numpy")
    def train(
        theta0, own, seeds, rates, schedule, edges, marks, history, snapshots, diverged, origin, until, moments, carry,
        sizes, s, t,
    ):  # fmt: skip
        source  # noqa: B018
        density, importance = own
        n, m, batch, tile, groups, cycle = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]
        members = n // max(groups, 1)
        ms = up(m) if wide else m
        ld, blocks = tile + LANES, up(batch, BLOCK) // BLOCK
        matrix = n * ms
        count = up(matrix * (2 - tied) + hidden * ms + n)
        at = 0  # where everything lies in s
        theta, gradient, first, second = at, at + count, at + 2 * count, at + 3 * count
        at += 4 * count
        limit, inverse, weight = at, at + up(n), at + 2 * up(n)
        at += 3 * up(n)
        which = at
        at += BLOCK
        E = theta
        D = theta if tied else theta + matrix
        c = D + matrix
        b = c + hidden * ms
        gE, gD, gc, gb = gradient + E - theta, gradient + D - theta, gradient + c - theta, gradient + b - theta
        lost = at
        at += up(n + 1)
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
        HT, BT, values = at, at + tile * ms, at + 2 * tile * ms
        feature = KEYS
        lanes = up(KEYS + 3 * (groups + n), 8)  # from a cache line's start: rows of tables are whole lines
        masks = lanes + TABLE * blocks
        begins = masks + blocks
        index = 2 * (begins + n + 1)  # in 32-bit numbers

        for i in range(theta0.shape[0]):
            if origin and diverged[i] >= 0:
                continue
            clear(s, theta, 4 * count)
            for j in range(theta0.shape[1]):
                s[theta + j] = theta0[i, j]
            empty, active = 1.0, 0.0
            for f in range(n):
                p = density[i, f]
                s[limit + f] = p if grouped else np.inf if p >= 1 else p * np.float32(2147483648.0)
                s[inverse + f] = (np.float32(1) / p) * np.float32(4.656612873077393e-10)
                s[weight + f] = importance[i, f]
                if not grouped:
                    empty *= 1.0 - np.float64(p)
                elif f < groups:
                    empty *= 1.0 - np.float64(p) * (members if grouped == IN_TURN else 1)
                active += p
            sparse = empty > EMPTY
            listing, fired = wide and active < SPARSE * n, 1.0
            seed = seeds[i]
            key_table(t, 0, seed, 0)
            lane_products(t, lanes, blocks, seed, 0)
            lr, decay, beta1, beta2, eps = rates[i, 0], rates[i, 1], rates[i, 2], rates[i, 3], rates[i, 4]
            power1, power2, total, stretch, mark, died = 1.0, 1.0, 0.0, 0, 0, -1
            if origin:
                power1, power2, total = carry[i, 0], carry[i, 1], carry[i, 2]
                stretch, mark = int(carry[i, 3]), int(carry[i, 4])
                fired = carry[i, 5]
                for j in range(theta0.shape[1]):
                    s[first + j], s[second + j] = moments[i, 0, j], moments[i, 1, j]
            for step in range(origin, until):
                first0 = step % cycle * M0
                feature_tables(t, feature, groups + n, seed, 0, first0, 0)
                lane_tables(t, lanes, blocks, 0, first0)
                clear(s, gradient, count)
                clear(s, lost, X - lost)
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
                            if grouped:
                                group = f // members
                                member = f - group * members
                                if member == 0:
                                    draw_group(s, which, t, 0, feature + 3 * group, table, limit)
                                if grouped != IN_TURN:
                                    member = 0
                                own_table = feature + 3 * (groups + f)
                                mask |= draw_member(s, row, t, 0, own_table, table, which, member, magnitude)
                            elif sparse:
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
                    if padded > columns and not sparse:
                        for f in range(n):
                            for j in range(columns, padded):
                                s[X + f * ld + j] = 0
                    shown += padded
                    if padded == 0:
                        continue
                    # ---- forward, backward
                    if few:
                        whole(s, E, b, X, ld, padded, weight, slopes, laneD, few, neurons, relu, power, target)
                        continue
                    if not wide:
                        product(s, H, ld, E, 1, ms, X, ld, m, n, padded, 0, 0)
                        if hidden:
                            rectify(s, H, ld, m, padded, c)
                        respond(s, G, ld, D, ms, 1, H, ld, n, m, padded, b, X, weight, slopes, relu, power, target)
                        product(s, B, ld, D, 1, ms, G, ld, m, n, padded, 0, 0)
                        if hidden:
                            through(s, B, ld, H, m, padded, bent)
                        if tied:
                            outer(s, laneD, ms, G, H, n, m, padded, ld, X, B, 2)
                        else:
                            outer(s, laneD, ms, G, H, n, m, padded, ld, X, B, 1)
                            outer(s, laneE, ms, X, B, n, m, padded, ld, X, B, 1)
                        continue
                    if listing:
                        clear(s, HT, padded * ms)
                        t[begins] = 0
                        for f in range(n):
                            begin = t[begins + f]
                            found = listed(s, X + f * ld, padded, t, index + begin, values + begin)
                            t[begins + f + 1] = begin + found
                            forward(s, t, index + begin, values + begin, found, ms, E + f * ms, HT)
                    else:
                        product(s, HT, ms, X, 1, ld, E, ms, padded, n, ms, 0, 1)
                    if hidden:
                        rectify_rows(s, HT, ms, padded, ms, c)
                    turned(s, H, ld, HT, ms, padded, m)
                    respond(s, G, ld, D, ms, 1, H, ld, n, m, padded, b, X, weight, slopes, relu, power, target)
                    on = 0
                    if fired < FIRED:
                        clear(s, BT, padded * ms)
                        end = t[begins + n] if listing else 0
                        for f in range(n):
                            found = listed(s, G + f * ld, padded, t, index + end, values + end)
                            on += found
                            backward(s, t, index + end, values + end, found, ms, D + f * ms, BT, gD + f * ms, HT)
                    else:
                        for f in range(n):
                            on += entries(s, G + f * ld, padded)
                        product(s, BT, ms, G, 1, ld, D, ms, padded, n, ms, 0, 1)
                        product(s, gD, ms, G, ld, 1, HT, ms, n, padded, ms, 1, 1)
                    fired = on / (n * padded)  # of this tile, decides for the next
                    if hidden:
                        through_rows(s, BT, ms, HT, padded, ms, gc)
                    if listing:
                        for f in range(n):
                            begin = t[begins + f]
                            found = t[begins + f + 1] - begin
                            collect(s, t, index + begin, values + begin, found, ms, gE + f * ms, BT)
                    else:
                        product(s, gE, ms, X, ld, 1, BT, ms, n, padded, ms, 1, 1)
                # ---- the sums
                factor = np.float64(power) / batch
                if wide:
                    scale(s, gradient, count, factor)
                if few:
                    totals(s, gb, slopes, LANES, n, factor)
                    totals(s, lost + n, slopes + LANES * n, 0, 1, 1.0)
                else:
                    totals(s, gb, slopes, 2 * LANES, n, factor)
                    totals(s, lost, slopes + LANES, 2 * LANES, n, 1.0)
                if not wide:
                    if hidden:
                        totals(s, gc, bent, LANES, m, factor)
                    totals(s, gD, laneD, LANES, matrix, factor)
                    if not tied:
                        totals(s, gE, laneE, LANES, matrix, factor)
                if hidden and not bias:
                    for k in range(ms):
                        s[gc + k] = 0
                loss = np.float64(s[lost + n])  # where it was summed over features already
                zeros = batch - shown
                for f in range(n):
                    missed = np.float64(s[lost + f])
                    if zeros:
                        pre = s[b + f]
                        for k in range(m * bias):
                            pre += s[D + f * ms + k] * max(s[c + k], 0)
                        y = max(pre, 0) if relu else pre
                        g = zeros * factor * s[weight + f] * (y if power == 2 else y * y * y)
                        missed += zeros * (y * y if power == 2 else y * y * y * y)
                        s[gb + f] += g
                        for k in range(m * bias):
                            if s[c + k] > 0:
                                s[gD + f * ms + k] += g * s[c + k]
                                s[gc + k] += g * s[D + f * ms + k]
                    loss += s[weight + f] * missed
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
            if until < schedule.shape[0]:
                carry[i, 0], carry[i, 1], carry[i, 2] = power1, power2, total
                carry[i, 3], carry[i, 4] = stretch, mark
                carry[i, 5] = fired
                for j in range(theta0.shape[1]):
                    moments[i, 0, j], moments[i, 1, j] = s[first + j], s[second + j]
            for j in range(theta0.shape[1]):
                theta0[i, j] = s[theta + j]
            if died >= 0:
                for h in range(stretch, history.shape[1]):
                    history[i, h] = np.nan
                for h in range(mark, marks.shape[0]):
                    for j in range(theta0.shape[1]):
                        snapshots[h, i, j] = s[theta + j]

    return train
