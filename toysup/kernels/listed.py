"""Tied autoencoders of a few neurons on very many, very sparse features: samples as lists of entries.

    h = x W,   y = ReLU(h W^T + b),   loss = mean over samples of sum_i I_i (y_i - x_i)^2

Next to no x_i differs from 0, so everything is computed as if none did, and the few entries set it right. What is left
of the dense part is one pass that needs W, b, h and the derivatives that go back to h, a few kilobytes, and stores
nothing else: for each feature, the sums over samples of z = I y and of z h, and for each sample that of z W. These
sums hold the loss too: where the ReLU is on, y is h W^T + b, so that sum_c I y^2 = W . sum_c z h + b sum_c z.

A training set is drawn once, before the first step; endless data step by step. Draws are those of `toysup.random`. The
kernel is written once for float32 and float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numba as nb
import numpy as np
from llvmlite import ir

from toysup import random
from toysup.jit import njit
from toysup.kernels import tiles
from toysup.kernels.tiles import UNIFORM, adam, clear, draw, scale, sound, up
from toysup.random import BLOCK, KEYS, M0, TABLE, feature_tables, key_table, lane_products, lane_tables
from toysup.simd import INT, LANES, Emit, answers, emitted, source_of

__all__ = ["Kind", "floats_needed", "ints_needed", "kernel"]

ROWS = 4  # features in work at once: with two neurons their weights and sums just fill 32 registers


class Kind(NamedTuple):
    """What the code of a kernel depends on."""

    m: int
    weighted: bool  # importance is not 1 everywhere


@emitted
@answers
def first_bit(e: Emit, s, mask):
    """The lowest bit of a mask that is on."""
    return e.call("llvm.cttz.i64", INT, e.whole(mask), ir.Constant(ir.IntType(1), 0))


@emitted
def respond(e: Emit, s, W, b, weight, H, B, ld, columns, n, gradient, slope, m, weighted):
    """The dense part, as if x were 0: gradient[f] = sum_c z h, slope[f] = sum_c z, B[c] += z W, z = I ReLU(W h + b).

    H, B: (m, ld); W, gradient: (n, m). Features whose ReLU is off for all samples leave their places untouched.
    """

    def band(f: ir.Value, height: int) -> None:
        def row(at: Any, i: int) -> ir.Value:
            return e.splat(e.scalar(s, e.add(at, f, i)))

        w = [[e.splat(e.scalar(s, e.add(W, e.times(e.add(f, i), m), k))) for k in range(m)] for i in range(height)]
        bias = [row(b, i) for i in range(height)]

        def samples(c: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
            new = list(held)
            h, back = ([e.load(s, e.add(at, e.times(k, ld), c)) for k in range(m)] for at in (H, B))
            for i in range(height):
                z = bias[i]
                for k in range(m):
                    z = e.fma(w[i][k], h[k], z)
                z = e.maximum(z, e.constant(0.0))
                if weighted:
                    z = e.b.fmul(z, row(weight, i))
                new[i] = e.b.fadd(new[i], z)
                for k in range(m):
                    place = height + i * m + k
                    new[place] = e.fma(z, h[k], new[place])
                    back[k] = e.fma(w[i][k], z, back[k])
            for k in range(m):
                e.store(back[k], s, e.add(B, e.times(k, ld), c))
            return new

        sums = e.loop(0, columns, LANES, [e.constant(0.0)] * (height * (m + 1)), samples)
        some = sums[0]
        for value in sums[1:height]:
            some = e.b.fadd(some, value)
        on = e.b.bitcast(e.b.fcmp_unordered("!=", some, e.constant(0.0)), ir.IntType(LANES))
        with e.b.if_then(e.b.icmp_unsigned("!=", on, ir.Constant(on.type, 0))):
            for i in range(height):
                e.b.store(e.total(sums[i]), e.at(s, e.add(slope, f, i)))
                for k in range(m):
                    place = e.add(gradient, e.times(e.add(f, i), m), k)
                    e.b.store(e.total(sums[height + i * m + k]), e.at(s, place))

    e.pieces(0, n, [ROWS, 1], band)


@emitted
def dot(e: Emit, s, out, a, c, count):
    """s[out] = sum_j s[a + j] s[c + j], in float64 until the end; count a multiple of 16."""
    wide = ir.VectorType(ir.DoubleType(), LANES)

    def widened(at: Any) -> ir.Value:
        value = e.load(s, at)
        return value if value.type == wide else e.b.fpext(value, wide)

    def some(j: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
        return [e.fma(widened(e.add(a, j)), widened(e.add(c, j)), held[0])]

    total = e.total(e.loop(0, count, LANES, [e.constant(0.0, wide)], some)[0])
    e.b.store(e.real(total), e.at(s, out))


def floats_needed(n: int, m: int, batch: int, count: int) -> int:
    """Scratch for `kernel`, in numbers, for parameters padded to `count`."""
    return int(4 * count + 3 * up(n) + (2 * m + 1) * up(batch) + BLOCK + LANES)


def ints_needed(n: int, batch: int) -> int:
    """Likewise in whole numbers of 64 bits."""
    return int(up(KEYS + 3 * n, 8) + TABLE * (up(batch, BLOCK) // BLOCK))


@nb.njit(nogil=True)
def longer(array, used):
    """A copy with twice the room."""
    new = np.empty(2 * len(array), array.dtype)
    new[:used] = array[:used]
    return new


@nb.njit(nogil=True)
def gather(s, t, drawn, limit, inverse, squares, n, batch, feature, lanes, which, sample, value, used):
    """Append the active entries of one batch to three lists, divided by the lengths of their samples."""
    first = used
    for c in range(batch):
        s[squares + c] = 0
    for block in range(up(batch, BLOCK) // BLOCK):
        left = min(BLOCK, batch - block * BLOCK)
        for f in range(n):
            mask = draw(s, drawn, t, 0, feature + 3 * f, lanes + block * TABLE, limit + f, inverse + f, UNIFORM, 1)
            if mask == 0:
                continue
            if used + BLOCK > len(which):
                which, sample, value = longer(which, used), longer(sample, used), longer(value, used)
            while mask:
                lane = first_bit(s, mask)
                mask &= mask - 1
                if lane < left:
                    c, v = block * BLOCK + lane, s[drawn + lane]
                    which[used], sample[used], value[used] = f, c, v
                    s[squares + c] += v * v
                    used += 1
    for j in range(first, used):
        value[j] /= np.sqrt(s[squares + sample[j]])
    return which, sample, value, used


@lru_cache(maxsize=64)
def kernel(kind: Kind) -> Callable[..., None]:
    """The compiled kernel of one kind, from numba's cache on disk where it is there."""
    return _make(source_of(__name__, tiles.__name__, random.__name__), *(int(value) for value in kind))


def _make(source, m, weighted):
    @njit(nogil=True, error_model="numpy")
    def train(
        theta0, own, seeds, rates, schedule, edges, marks, history, snapshots, diverged, origin, until, moments, carry,
        sizes, s, t,
    ):  # fmt: skip
        source  # noqa: B018
        density, importance = own
        n, batch, cycle, stream = sizes[0], sizes[1], sizes[2], sizes[3]  # cycle 0: endless data
        ld, blocks = up(batch), up(batch, BLOCK) // BLOCK
        count = up(n * m + n)
        theta, gradient, first, second = 0, count, 2 * count, 3 * count  # where everything lies in s
        W, b, gW, gb = theta, theta + n * m, gradient, gradient + n * m
        limit = 4 * count
        inverse, weight = limit + up(n), limit + 2 * up(n)
        H = limit + 3 * up(n)
        B, squares, drawn = H + m * ld, H + 2 * m * ld, H + (2 * m + 1) * ld
        summed = drawn + BLOCK
        feature, lanes = KEYS, up(KEYS + 3 * n, 8)
        room = BLOCK + int(n * batch * max(cycle, 1) * np.float64(density.max()) * 1.1)
        which, sample = np.empty(room, np.int32), np.empty(room, np.int32)
        value, begins = np.empty(room, theta0.dtype), np.zeros(max(cycle, 1) + 1, np.int64)

        for i in range(theta0.shape[0]):
            if origin and diverged[i] >= 0:
                continue
            clear(s, 0, 4 * count)
            for j in range(theta0.shape[1]):
                s[j] = theta0[i, j]
            for f in range(n):
                p = density[i, f]
                s[limit + f] = np.inf if p >= 1 else p * np.float32(2147483648.0)
                s[inverse + f] = (np.float32(1) / p) * np.float32(4.656612873077393e-10)
                s[weight + f] = importance[i, f]
            seed = seeds[i]
            key_table(t, 0, seed, stream)
            lane_products(t, lanes, blocks, seed, 0)
            for k in range(cycle):
                feature_tables(t, feature, n, seed, stream, k * M0, 0)
                lane_tables(t, lanes, blocks, stream, k * M0)
                which, sample, value, begins[k + 1] = gather(
                    s, t, drawn, limit, inverse, squares, n, batch, feature, lanes, which, sample, value, begins[k]
                )
            lr, decay, beta1, beta2, eps = rates[i, 0], rates[i, 1], rates[i, 2], rates[i, 3], rates[i, 4]
            power1, power2, total, stretch, mark, died = 1.0, 1.0, 0.0, 0, 0, -1
            if origin:
                power1, power2, total = carry[i, 0], carry[i, 1], carry[i, 2]
                stretch, mark = int(carry[i, 3]), int(carry[i, 4])
                for j in range(theta0.shape[1]):
                    s[first + j], s[second + j] = moments[i, 0, j], moments[i, 1, j]
            for step in range(origin, until):
                if cycle:
                    begin, end = begins[step % cycle], begins[step % cycle + 1]
                else:
                    feature_tables(t, feature, n, seed, stream, step * M0, 0)
                    lane_tables(t, lanes, blocks, stream, step * M0)
                    which, sample, value, end = gather(
                        s, t, drawn, limit, inverse, squares, n, batch, feature, lanes, which, sample, value, 0
                    )
                    begin = 0
                clear(s, gradient, count)
                clear(s, H, 2 * m * ld)
                # ---- forward, backward
                for j in range(begin, end):
                    f, c, v = which[j], sample[j], value[j]
                    for k in range(m):
                        s[H + k * ld + c] += v * s[W + f * m + k]
                respond(s, W, b, weight, H, B, ld, ld, n, gW, gb, m, weighted)
                padding = ld - batch
                if padding:
                    for f in range(n):
                        s[gb + f] -= padding * (s[weight + f] * max(s[b + f], 0))
                dot(s, summed, theta, gradient, count)
                loss = np.float64(s[summed])
                for j in range(begin, end):
                    f, c, v = which[j], sample[j], value[j]
                    pre, weighs = s[b + f], s[weight + f]
                    for k in range(m):
                        pre += s[W + f * m + k] * s[H + k * ld + c]
                    if pre > 0:
                        loss += np.float64(weighs * (v * (v - 2 * pre)))
                        z = weighs * v
                        s[gb + f] -= z
                        for k in range(m):
                            s[gW + f * m + k] -= z * s[H + k * ld + c]
                            s[B + k * ld + c] -= z * s[W + f * m + k]
                    else:
                        loss += np.float64(weighs * (v * v))
                for j in range(begin, end):
                    f, c, v = which[j], sample[j], value[j]
                    for k in range(m):
                        s[gW + f * m + k] += v * s[B + k * ld + c]
                loss /= batch
                scale(s, gradient, count, 2.0 / batch)
                if not (np.isfinite(loss) and sound(s, gradient, count)):
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
                        snapshots[mark, i, j] = s[j]
                    mark += 1
            diverged[i] = died
            if until < schedule.shape[0]:
                carry[i, 0], carry[i, 1], carry[i, 2] = power1, power2, total
                carry[i, 3], carry[i, 4] = stretch, mark
                for j in range(theta0.shape[1]):
                    moments[i, 0, j], moments[i, 1, j] = s[first + j], s[second + j]
            for j in range(theta0.shape[1]):
                theta0[i, j] = s[j]
            if died >= 0:
                for h in range(stretch, history.shape[1]):
                    history[i, h] = np.nan
                for h in range(mark, marks.shape[0]):
                    for j in range(theta0.shape[1]):
                        snapshots[h, i, j] = s[j]

    return train
