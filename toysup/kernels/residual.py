"""Residual networks, trained by one fused kernel: draws, forward, backward and AdamW without leaving the cache.

    s_0 = x W_E,  or the sum of K rows of W_E over sqrt(K);  s_l+1 = s_l + ReLU(s_l W_in + b) W_out
    y = s_L W_U^T  or  ReLU(s_L W_U^T + b_out)  or  gain times the first coordinates of s_L
    loss = mean over samples of sum_i I_i |y_i - g(x_i)|^q,  or of cross-entropies in nats over groups of C logits

One instance is trained from its first step to its last before the next begins. Everything lies feature by feature (or
neuron by neuron), samples along the SIMD lanes, so that no width is padded; only the samples are, to whole panels of
64. Forward, a panel goes through all layers while it is in L1. Backward, a tile of some hundred samples goes layer by
layer, because the gradient of a weight ends in a sum over lanes, which is worth its while over a tile only.

Each sample has a weight in the loss: 1 / batch, 0 for padding, and where features are so sparse that many samples have
none active, those are squeezed out and one sample of zeros stands for all of them. Both are exact.

Draws are those of `toysup.random`, bit for bit. The kernel is written once for float32 and float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numba as nb
import numpy as np
from llvmlite import ir

from toysup import random
from toysup.jit import njit
from toysup.kernels import tiles
from toysup.kernels.tiles import ABSOLUTE, PLUS_RELU, adam, clear, contract, divided, draw, sound, squeeze, up
from toysup.random import BLOCK, KEYS, M0, TABLE, feature_tables, key_table, lane_products, lane_tables
from toysup.simd import INT, INT32, LANES, Emit, emitted, source_of

__all__ = ["Kind", "Layout", "kernel"]

CACHE = 400_000  # bytes of activations that a tile may have: with what else is used they stay in 1 MiB of L2
TILE = 512  # samples of a tile at most
EMPTY = 0.1  # share of empty samples from which they are squeezed out
PLAIN, RECTIFIED, ADDED, GATED = range(4)


class Kind(NamedTuple):
    """What the code of a kernel depends on; the last four matter for regression only."""

    memory: bool
    relu: bool = False  # ReLU and bias at the output
    power: int = 2  # or 4
    target: int = 0
    magnitude: int = 0


class Layout(NamedTuple):
    """Sizes, and where everything starts in scratch. The gradient of what starts at a place is `count` behind it."""

    n: int  # features, or groups of facts
    n_out: int
    labels: int
    width: int
    hidden: int
    depth: int
    read: int  # coordinates that the last block writes
    batch: int
    cycle: int  # batches after which data come again
    tile: int
    ld: int  # from one row of activations to the next
    count: int  # parameters, padded
    group: int  # facts in one group
    W_in: int
    b_in: int
    W_out: int
    W_E: int  # -1 for facts, whose keys are not in scratch
    W_U: int  # -1 if coordinates are read
    gain: int
    b_out: int
    trains_E: int
    trains_U: int
    trains_blocks: int
    limit: int
    inverse: int
    importance: int
    weights: int  # of the samples
    lost: int
    stream: int
    neurons: int
    x: int  # inputs, or the labels of the active facts
    y: int  # outputs, then their derivatives
    back: int  # derivatives of the stream
    bent: int  # derivatives of neurons before their ReLU


# ------------------------------------------------------------------------------------------------------------ pieces


@emitted
def _layer(e: Emit, s, out, ld, a, ar, ak, x, rows, depth, base, how):
    """out[r, c] = sum_k a[r, k] x[k, c] for one panel, from zero (PLAIN), the matrix `base` (ADDED) or a column of it
    and then a ReLU (RECTIFIED); zero where `base` is not positive (GATED)."""
    zero = e.constant(0.0)

    def start(r, c):
        if how == RECTIFIED:
            return e.splat(e.scalar(s, e.add(base, r)))
        return e.load(s, e.add(base, e.times(r, ld), c)) if how == ADDED else zero

    def finish(r, c, height, width, sums):
        for position, value in enumerate(sums):
            place = e.add(e.times(e.add(r, position // width), ld), c, LANES * (position % width))
            if how == RECTIFIED:
                value = e.maximum(value, zero)
            if how == GATED:
                value = e.b.select(e.b.fcmp_ordered(">", e.load(s, e.add(base, place)), zero), value, zero)
            e.store(value, s, e.add(out, place))

    contract(e, s, a, ar, ak, x, ld, rows, depth, BLOCK, start, finish)


def _pairs(e: Emit, a: ir.Value, c: ir.Value, lanes: Sequence[int]) -> ir.Value:
    return e.b.shuffle_vector(a, c, ir.Constant(ir.VectorType(INT32, LANES), list(lanes)))


def _halves(e: Emit, a: ir.Value, c: ir.Value, s: int) -> tuple[ir.Value, ir.Value]:
    """Lanes whose number has bit s off, of both; then those that have it on. The second's go where bit s is on."""
    low = [j if not j & s else LANES + j - s for j in range(LANES)]
    return _pairs(e, a, c, low), _pairs(e, a, c, [j + s for j in low])


def _folded(e: Emit, values: Sequence[ir.Value]) -> ir.Value:
    """The sum over lanes of up to 16 vectors, one in each lane."""
    values = list(values) + [e.constant(0.0)] * (LANES - len(values))
    while len(values) > 1:
        s = len(values) // 2
        values = [e.b.fadd(*_halves(e, values[i], values[i + s], s)) for i in range(s)]
    return values[0]


def _turned(e: Emit, values: Sequence[ir.Value]) -> list[ir.Value]:
    """16 vectors as the rows of a matrix: its columns."""
    values = list(values)
    for s in (8, 4, 2, 1):
        for i in range(LANES):
            if not i & s:
                values[i], values[i + s] = _halves(e, values[i], values[i + s], s)
    return values


@emitted
def _crossed(e: Emit, s, out, step, a, x, rows, width, columns, ld):
    """out[r, k] += sum_c a[r, c] x[k, c], the rows of `out` `step` apart."""

    def band(r: ir.Value, height: int) -> None:
        def lanes(r: ir.Value, k: ir.Value, own: Sequence[tuple[int, int]], first: int, kind: Any) -> list[ir.Value]:
            """Sums over columns, lane by lane, of some entries."""

            def add(c: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
                left = {i: e.load(s, e.add(a, e.times(e.add(r, i), ld), c, first), kind) for i in dict(own)}
                right = {j: e.load(s, e.add(x, e.times(e.add(k, j), ld), c, first), kind) for _, j in own}
                return [e.fma(left[i], right[j], sum) for (i, j), sum in zip(own, held, strict=True)]

            return e.loop(0, columns, LANES, [e.constant(0.0, kind)] * len(own), add)

        def block(k: ir.Value, breadth: int) -> None:
            tall, wide = divided(e, height, breadth)
            found: list[Any] = [None] * (height * breadth)
            for i, j in itertools.product(range(0, height, tall), range(0, breadth, wide)):
                own = [(i + di, j + dj) for di in range(min(tall, height - i)) for dj in range(min(wide, breadth - j))]
                parts = [lanes(r, k, own, *half) for half in e.halves()]
                for (di, dj), *values in zip(own, *parts, strict=True):
                    found[di * breadth + dj] = e.joined(values)
            sums = _folded(e, found)
            for i in range(height):
                place = e.add(out, e.times(e.add(r, i), step), k)
                part = ir.Constant(ir.VectorType(INT32, breadth), list(range(i * breadth, (i + 1) * breadth)))
                part = e.b.shuffle_vector(sums, sums, part)
                e.store(e.b.fadd(e.load(s, place, part.type), part), s, place)

        e.pieces(0, width, (4, 3, 2, 1), block)

    e.pieces(0, rows, (4, 3, 2, 1), band)


@emitted
def _row_totals(e: Emit, s, out, at, ld, rows, columns):
    """out[r] += sum_c at[r, c]."""

    def row(r: ir.Value, _: Any) -> None:
        place = e.add(at, e.times(r, ld))
        held = e.loop(0, columns, LANES, [e.constant(0.0)], lambda c, h: [e.b.fadd(h[0], e.load(s, e.add(place, c)))])
        place = e.add(out, r)
        e.b.store(e.b.fadd(e.scalar(s, place), e.total(held[0])), e.at(s, place))

    e.loop(0, rows, 1, (), row)


@emitted
def _scaled(e: Emit, s, out, at, ld, rows, columns, gain):
    """out[r, c] = at[r, c] times the number at `gain`."""
    factor = e.splat(e.scalar(s, gain))

    def row(r: ir.Value, _: Any) -> None:
        def one(c: ir.Value, _: Any) -> None:
            place = e.add(e.times(r, ld), c)
            e.store(e.b.fmul(e.load(s, e.add(at, place)), factor), s, e.add(out, place))

        e.loop(0, columns, LANES, (), one)

    e.loop(0, rows, 1, (), row)


def _whole(e: Emit) -> tuple[ir.VectorType, int, int]:
    """(whole numbers as wide as an element, bits of its fraction, bias of its exponent)."""
    bits, fraction, bias = (32, 23, 127) if e.element == ir.FloatType() else (64, 52, 1023)
    return ir.VectorType(ir.IntType(bits), LANES), fraction, bias


def _polynomial(e: Emit, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
    """sum_k c_k x^k, lowest first."""
    value = e.constant(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = e.fma(value, x, e.constant(c))
    return value


def _exponential(e: Emit, x: ir.Value) -> ir.Value:
    """exp(x) for x <= 0, and 0 below -60, within 2e-7 of itself: 2^k exp(r), |r| <= ln(2) / 2, by Taylor's series."""
    kind, fraction, bias = _whole(e)
    terms = 8 if fraction == 23 else 14
    high, low = 0.693145751953125, 1.42860682030941723212e-6  # ln 2 in two parts, as in Cephes
    suffix = "v16f32" if fraction == 23 else "v16f64"
    bounded = e.maximum(x, e.constant(-60.0))
    k = e.call(f"llvm.rint.{suffix}", e.vector, e.b.fmul(bounded, e.constant(1 / np.log(2))))
    r = e.fma(k, e.constant(-low), e.fma(k, e.constant(-high), bounded))
    series = _polynomial(e, r, [1 / float(np.prod(np.arange(1.0, j + 1))) for j in range(terms)])
    power = e.b.shl(e.b.add(e.b.fptosi(k, kind), e.constant(bias, kind)), e.constant(fraction, kind))
    value = e.b.fmul(series, e.b.bitcast(power, e.vector))
    return e.b.select(e.b.fcmp_ordered("<", x, e.constant(-60.0)), e.constant(0.0), value)


def _logarithm(e: Emit, x: ir.Value) -> ir.Value:
    """ln(x) for x >= 1: k ln 2 + ln(m), m in [1/sqrt 2, sqrt 2), by the series of 2 artanh((m - 1) / (m + 1))."""
    kind, fraction, bias = _whole(e)
    b, one = e.b, e.constant(1.0)
    bits = b.bitcast(x, kind)
    k = b.sub(b.lshr(bits, e.constant(fraction, kind)), e.constant(bias, kind))
    m = b.bitcast(b.sub(bits, b.shl(k, e.constant(fraction, kind))), e.vector)  # in [1, 2)
    big = b.fcmp_ordered(">", m, e.constant(2**0.5))
    m = b.select(big, b.fmul(m, e.constant(0.5)), m)
    k = b.fadd(b.sitofp(k, e.vector), b.select(big, one, e.constant(0.0)))
    z = b.fdiv(b.fsub(m, one), b.fadd(m, one))
    series = _polynomial(e, b.fmul(z, z), [2 / (2 * j + 1) for j in range(5 if fraction == 23 else 12)])
    return e.fma(k, e.constant(float(np.log(2))), b.fmul(z, series))


@emitted
def _cross_entropy(e: Emit, s, y, ld, groups, labels, wanted, weights, columns, lost):
    """Logits in y become derivatives of the loss, weight (softmax - one-hot); the losses are added to `lost`."""
    b, zero = e.b, e.constant(0.0)

    def group(g: ir.Value, _: Any) -> None:
        first = e.add(y, e.times(e.times(g, labels), ld))

        def vector(c: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
            def place(j: ir.Value) -> Any:
                return e.add(first, e.times(j, ld), c)

            def largest(j: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
                return [e.maximum(e.load(s, place(j)), held[0])]

            def powers(j: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
                less = b.fsub(e.load(s, place(j)), top)
                value = _exponential(e, less)
                e.store(value, s, place(j))
                is_it = b.fcmp_ordered("==", right, e.splat(b.sitofp(j, e.element)))
                return [b.fadd(held[0], value), b.select(is_it, less, held[1])]

            def derivative(j: ir.Value, _: Any) -> None:
                is_it = b.fcmp_ordered("==", right, e.splat(b.sitofp(j, e.element)))
                value = b.fsub(b.fmul(e.load(s, place(j)), share), b.select(is_it, weight, zero))
                e.store(value, s, place(j))

            weight = e.load(s, e.add(weights, c))
            right = e.load(s, e.add(wanted, e.times(g, ld), c))
            top = e.loop(1, labels, 1, [e.load(s, place(e.whole(0)))], largest)[0]
            total, logit = e.loop(0, labels, 1, [zero, zero], powers)
            share = b.fdiv(weight, total)
            e.loop(0, labels, 1, (), derivative)
            return [e.fma(weight, b.fsub(_logarithm(e, total), logit), held[0])]

        e.store(e.loop(0, columns, LANES, [e.load(s, lost)], vector)[0], s, lost)

    e.loop(0, groups, 1, (), group)


@emitted
def _respond(e: Emit, s, y, ld, x, rows, bias, importance, weights, columns, lost, relu, power, target):
    """Outputs in y become derivatives of the loss, weight I q |d|^(q-1) sign d; the losses are added to `lost`."""
    b, zero = e.b, e.constant(0.0)

    def row(r: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
        scale = e.splat(e.scalar(s, e.add(importance, r)))
        shift = e.splat(e.scalar(s, e.add(bias, r))) if relu else zero

        def one(c: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
            place = e.add(e.times(r, ld), c)
            wanted, pre = e.load(s, e.add(x, place)), e.load(s, e.add(y, place))
            if target == ABSOLUTE:
                wanted = e.maximum(wanted, b.fsub(zero, wanted))
            elif target == PLUS_RELU:
                wanted = b.fadd(wanted, e.maximum(wanted, zero))
            if relu:
                pre = b.fadd(pre, shift)
            d = b.fsub(e.maximum(pre, zero) if relu else pre, wanted)
            weighted = b.fmul(b.fmul(d, scale), e.load(s, e.add(weights, c)))
            if power == 4:
                weighted = b.fmul(weighted, b.fmul(d, d))
            slope = b.fmul(weighted, e.constant(float(power)))
            if relu:
                slope = b.select(b.fcmp_ordered(">", pre, zero), slope, zero)
            e.store(slope, s, e.add(y, place))
            return [e.fma(weighted, d, held[0])]

        return e.loop(0, columns, LANES, list(held), one)

    e.store(e.loop(0, rows, 1, [e.load(s, lost)], row)[0], s, lost)


# ------------------------------------------------------------------------------------------------------------- facts


@emitted
def _active(e: Emit, t, at, keys, feature, lanes, used, first):
    """Which fact of a group is active in each of 64 samples: floor(u used) below `used`, counted from `first`."""
    b, amount = e.b, e.single(used)
    last = b.fsub(amount, ir.Constant(amount.type, 1.0))
    for sample, word in random.words(e, t, keys, feature, lanes):
        u = random.uniform(e, word)
        drawn, highest = b.fmul(u, e.splat(amount, u.type.count)), e.splat(last, u.type.count)
        drawn = b.select(b.fcmp_ordered("<", drawn, highest), drawn, highest)
        index = b.sext(b.fptosi(drawn, ir.VectorType(INT32, u.type.count)), ir.VectorType(INT, u.type.count))
        e.store(b.add(index, e.splat(e.whole(first), u.type.count)), t, e.add(at, sample))


@emitted
def _embedded(e: Emit, s, out, ld, t, at, tile, keys, width, groups, columns, factor):
    """out[i, c] = factor sum_g keys[t[at + g tile + c], i]; rows of `keys` are padded to 16, which `out` has room for.

    16 coordinates of 16 samples are added up sample by sample and then turned.
    """
    kind = ir.VectorType(e.element, LANES)
    by, padded = e.splat(e.real(factor)), e.b.and_(e.add(width, LANES - 1), e.whole(-LANES))

    def block(c: ir.Value, _: Any) -> None:
        def coordinates(i: ir.Value, _: Any) -> None:
            def group(g: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
                new = []
                for lane, value in enumerate(held):
                    index = e.scalar(t, e.add(at, e.times(g, tile), c, lane))
                    row = e.load(keys, e.add(e.times(index, padded), i), ir.VectorType(ir.FloatType(), LANES))
                    new.append(e.b.fadd(value, e.widened(row)))
                return new

            rows = _turned(e, e.loop(0, groups, 1, [ir.Constant(kind, [0.0] * LANES)] * LANES, group))
            for j, value in enumerate(rows):
                e.store(e.b.fmul(value, by), s, e.add(out, e.times(e.add(i, j), ld), c))

        e.loop(0, padded, LANES, (), coordinates)

    e.loop(0, columns, LANES, (), block)


# ---------------------------------------------------------------------------------------------------------- networks


@nb.njit(nogil=True)
def _gradient(s, out, step, a, x, rows, width, columns, ld):
    _crossed(s, out, step, a, x, rows, width, columns, ld)  # one copy of its code serves all calls


@nb.njit(nogil=True)
def _forward(s, p, c):
    """Outputs of the panel at sample c, from its stream."""
    d, h, ld = p.width, p.hidden, p.ld
    for layer in range(p.depth):
        here, neurons = p.stream + layer * d * ld + c, p.neurons + layer * h * ld + c
        rows = p.read if layer == p.depth - 1 else d
        _layer(s, neurons, ld, p.W_in + layer * d * h, 1, h, here, h, d, p.b_in + layer * h, RECTIFIED)
        _layer(s, here + d * ld, ld, p.W_out + layer * h * d, 1, rows, neurons, rows, h, here, ADDED)
    top = p.stream + p.depth * d * ld + c
    if p.W_U < 0:
        _scaled(s, p.y + c, top, ld, p.n_out, BLOCK, p.gain)
    else:
        _layer(s, p.y + c, ld, p.W_U, d, 1, top, p.n_out, d, 0, PLAIN)


@nb.njit(nogil=True)
def _backward(s, p, columns):
    """Gradients of a tile, added to what is there, from the derivatives in p.y."""
    d, h, ld, count = p.width, p.hidden, p.ld, p.count
    top = p.stream + p.depth * d * ld
    if p.W_U < 0:
        for r in range(p.n_out):
            _gradient(s, p.gain + count, 1, p.y + r * ld, top + r * ld, 1, 1, columns, ld)
        _scaled(s, p.back, p.y, ld, p.n_out, columns, p.gain)
        clear(s, p.back + p.n_out * ld, (d - p.n_out) * ld)
    else:
        if p.trains_U:
            _gradient(s, p.W_U + count, d, p.y, top, p.n_out, d, columns, ld)
        for c in range(0, columns, BLOCK):
            _layer(s, p.back + c, ld, p.W_U, 1, d, p.y + c, d, p.n_out, 0, PLAIN)
    if not (p.trains_blocks or p.trains_E):
        return
    for layer in range(p.depth - 1, -1, -1):
        here, neurons = p.stream + layer * d * ld, p.neurons + layer * h * ld
        w_in, w_out, rows = p.W_in + layer * d * h, p.W_out + layer * h * d, p.read if layer == p.depth - 1 else d
        if p.trains_blocks:
            _gradient(s, w_out + count, rows, neurons, p.back, h, rows, columns, ld)
        for c in range(0, columns, BLOCK):
            _layer(s, p.bent + c, ld, w_out, rows, 1, p.back + c, h, rows, neurons + c, GATED)
        if p.trains_blocks:
            _row_totals(s, p.b_in + layer * h + count, p.bent, ld, h, columns)
            _gradient(s, w_in + count, h, here, p.bent, d, h, columns, ld)
        if layer or p.trains_E:
            for c in range(0, columns, BLOCK):
                _layer(s, p.back + c, ld, w_in, h, 1, p.bent + c, d, h, p.back + c, ADDED)


@lru_cache(maxsize=64)
def kernel(kind: Kind) -> Callable[..., None]:
    """The compiled kernel of one kind, from numba's cache on disk where it is there."""
    return _make(source_of(__name__, tiles.__name__, random.__name__), *(int(value) for value in kind))


def _make(source, memory, relu, power, target, magnitude):
    @njit(nogil=True, error_model="numpy")
    def train(
        theta0, own, seeds, rates, schedule, edges, marks, history, snapshots, diverged, origin, until, moments, carry,
        p, s, t,
    ):  # fmt: skip
        source  # noqa: B018
        frozen, first_own, second_own, keys = own  # facts: n used, labels, keys; features: density, importance, -
        n, ld, count = p.n, p.ld, p.count
        blocks = (p.batch + BLOCK - 1) // BLOCK
        feature, lanes = KEYS, up(KEYS + 3 * n, 8)  # from a cache line's start
        masks = lanes + TABLE * blocks  # then the indices of active facts
        for i in range(theta0.shape[0]):
            if origin and diverged[i] >= 0:
                continue
            clear(s, 0, 4 * count)
            for j in range(theta0.shape[1]):
                s[j] = theta0[i, j]
            for j in range(frozen.shape[1]):
                s[4 * count + j] = frozen[i, j]
            empty = 1.0
            if not memory:
                for f in range(n):
                    q = first_own[i, f]
                    s[p.limit + f] = np.inf if q >= 1 else q * np.float32(2147483648.0)
                    s[p.inverse + f] = (np.float32(1) / q) * np.float32(4.656612873077393e-10)
                    s[p.importance + f] = second_own[i, f]
                    empty *= 1.0 - np.float64(q)
            sparse = not memory and empty > EMPTY
            seed = seeds[i]
            key_table(t, 0, seed, 0)
            lane_products(t, lanes, blocks, seed, 0)
            lr, decay, beta1, beta2, eps = rates[i, 0], rates[i, 1], rates[i, 2], rates[i, 3], rates[i, 4]
            power1, power2, total, stretch, mark, died = 1.0, 1.0, 0.0, 0, 0, -1
            if origin:
                power1, power2, total = carry[i, 0], carry[i, 1], carry[i, 2]
                stretch, mark = int(carry[i, 3]), int(carry[i, 4])
                for j in range(theta0.shape[1]):
                    s[2 * count + j], s[3 * count + j] = moments[i, 0, j], moments[i, 1, j]
            for step in range(origin, until):
                first0 = step % p.cycle * M0
                feature_tables(t, feature, n, seed, 0, first0, 0)
                lane_tables(t, lanes, blocks, 0, first0)
                clear(s, count, count)
                clear(s, p.lost, LANES)
                for start in range(0, p.batch, p.tile):
                    size = min(p.tile, p.batch - start)
                    here, kept = (size + BLOCK - 1) // BLOCK, size
                    # ---- data
                    for block in range(here):
                        mask, table = 0, lanes + (start // BLOCK + block) * TABLE
                        for f in range(n):
                            if memory:
                                place = masks + f * p.tile + block * BLOCK
                                _active(t, place, 0, feature + 3 * f, table, first_own[i, 0], f * p.group)
                                for j in range(BLOCK):
                                    s[p.x + f * ld + block * BLOCK + j] = second_own[i, t[place + j]]
                            else:
                                row = p.x + f * ld + block * BLOCK
                                mask |= draw(
                                    s, row, t, 0, feature + 3 * f, table, p.limit + f, p.inverse + f, magnitude, 1
                                )
                        if not memory:
                            t[masks + block] = mask
                    if sparse:
                        if size % BLOCK:
                            t[masks + here - 1] &= (1 << (size % BLOCK)) - 1
                        for f in range(n):
                            kept = squeeze(s, p.x + f * ld, t, masks, here)
                    empties = size - kept
                    columns = (kept + (empties > 0) + BLOCK - 1) // BLOCK * BLOCK
                    for j in range(columns):
                        s[p.weights + j] = (j < kept) / p.batch
                    if empties:
                        s[p.weights + kept] = empties / p.batch
                        for f in range(n):
                            s[p.x + f * ld + kept] = 0
                    if not memory:
                        for f in range(n):
                            for j in range(kept, columns):
                                s[p.x + f * ld + j] = 0
                    # ---- forward, backward
                    if memory:
                        _embedded(
                            s, p.stream, ld, t, masks, p.tile, keys[i], p.width, n, columns, 1 / np.sqrt(np.float64(n))
                        )
                    for c in range(0, columns, BLOCK):
                        if not memory:
                            _layer(s, p.stream + c, ld, p.W_E, 1, p.width, p.x + c, p.width, n, 0, PLAIN)
                        _forward(s, p, c)
                    if memory:
                        _cross_entropy(s, p.y, ld, n, p.labels, p.x, p.weights, columns, p.lost)
                    else:
                        _respond(
                            s, p.y, ld, p.x, n, p.b_out, p.importance, p.weights, columns, p.lost, relu, power, target
                        )
                        if relu:
                            _row_totals(s, p.b_out + count, p.y, ld, n, columns)
                    _backward(s, p, columns)
                    if p.trains_E:
                        _gradient(s, p.W_E + count, p.width, p.x, p.back, n, p.width, columns, ld)
                loss = 0.0
                for j in range(LANES):
                    loss += s[p.lost + j]
                if not (np.isfinite(loss) and sound(s, count, count)):
                    died = step
                    break
                # ---- AdamW
                power1 *= beta1
                power2 *= beta2
                rate = lr * schedule[step]
                adam(
                    s, 0, count, 2 * count, 3 * count, count, 1 - beta1, 1 - beta2, eps,
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
                    moments[i, 0, j], moments[i, 1, j] = s[2 * count + j], s[3 * count + j]
            for j in range(theta0.shape[1]):
                theta0[i, j] = s[j]
            if died >= 0:
                for h in range(stretch, history.shape[1]):
                    history[i, h] = np.nan
                for h in range(mark, marks.shape[0]):
                    for j in range(theta0.shape[1]):
                        snapshots[h, i, j] = s[j]

    return train
