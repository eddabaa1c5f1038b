"""What fused kernels are made of: matrix products by register tiles, sums over samples, AdamW, draws.

All work on one array of scratch, `s`, in which matrices are known by where they start and how far their rows lie apart.
Whole numbers are in `t`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numba as nb
from llvmlite import ir

from toysup import random
from toysup.random import BLOCK
from toysup.simd import INT, INT8, INT32, LANES, Emit, answers, emitted

UNIFORM, SIGNED, BOOLEAN, SIGN = range(4)  # magnitudes: U(0, 1), U(-1, 1), 1, -1 or 1
ALONE, TOGETHER, IN_TURN = range(3)  # features: independent; groups active all or none; at most one of each group
SAME, ABSOLUTE, PLUS_RELU = range(3)  # targets


def fits(e: Emit, height: int, width: int) -> bool:
    """Whether a tile's sums fit into the registers beside a row of what is multiplied and one number."""
    each = LANES // e.lanes
    return (height * width + width) * each < e.registers.number


def heights(e: Emit, tall: int = 0) -> list[int]:
    """Rows of tiles, largest first. Which sums are held together changes speed alone, never a number."""
    return [height for height in (*[12] * tall, 6, 5, 4, 3, 2, 1) if height == 1 or fits(e, height, 1)]


def widths(e: Emit, height: int) -> list[int]:
    """Vectors along tiles of so many rows, largest first."""
    widest = next(width for width in (*[8] * (height == 1), 4, 2, 1) if width == 1 or fits(e, height, width))
    return [widest, *[2] * (widest > 4), *[1] * (widest > 1)]


def divided(e: Emit, height: int, breadth: int, copies: int = 1) -> tuple[int, int]:
    """Into tiles of which shape height by breadth sums of one register are cut, so that all fit beside a column of what
    is multiplied and one more: the shape for which least is loaded."""
    shapes = [(h, w) for h in range(1, height + 1) for w in range(1, breadth + 1)
              if h * w == 1 or h * w * copies + h < e.registers.number]  # fmt: skip
    return min(shapes, key=lambda own: (-(-height // own[0]) * -(-breadth // own[1]) * sum(own), -own[0] * own[1]))


@nb.njit(nogil=True)
def up(count, to=LANES):
    return (count + to - 1) // to * to


# ------------------------------------------------------------------------------------------------------------ pieces


def contract(
    e: Emit, s, a, ar, ak, x, xk, rows, depth, columns, start: Callable[..., Any], finish: Callable[..., Any], tall=0
) -> None:
    """sum_k s[a + r ar + k ak] s[x + k xk + c] for r < rows, c < columns, a tile of registers at a time.

    `start(r, c)` gives a register's first value; `finish(r, c, height, width, sums)` takes a tile's.
    """

    def band(r: ir.Value, height: int) -> None:
        def block(c: ir.Value, size: int) -> None:
            width = size // LANES
            first = [start(e.add(r, i), e.add(c, LANES * v)) for i in range(height) for v in range(width)]

            def body(k: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
                right = [e.load(s, e.add(x, e.times(k, xk), c, LANES * v)) for v in range(width)]
                new = []
                for i in range(height):
                    left = e.splat(e.scalar(s, e.add(a, e.times(e.add(r, i), ar), e.times(k, ak))))
                    new += [e.fma(left, right[v], held[i * width + v]) for v in range(width)]
                return new

            sums = e.loop(0, depth, 1, first, body)
            finish(r, c, height, width, sums)

        e.pieces(0, columns, [LANES * width for width in widths(e, height)], block)

    e.pieces(0, rows, heights(e, tall), band)


@emitted
def _product(e: Emit, s, out, ld, a, ar, ak, x, xk, rows, depth, columns, more, tall):
    """out[r, c] = sum_k a[r, k] x[k, c]; added to what is there if `more`. `tall` tiles are for few columns."""

    def start(r, c):
        return e.load(s, e.add(out, e.times(r, ld), c)) if more else e.constant(0.0)

    def finish(r, c, height, width, sums):
        for (i, v), value in zip(itertools.product(range(height), range(width)), sums, strict=True):
            e.store(value, s, e.add(out, e.times(e.add(r, i), ld), c, LANES * v))

    contract(e, s, a, ar, ak, x, xk, rows, depth, columns, start, finish, tall)


@nb.njit(nogil=True)
def product(s, out, ld, a, ar, ak, x, xk, rows, depth, columns, more, tall):
    """out[r, c] = sum_k a[r, k] x[k, c]; added to what is there if `more`. `tall` tiles are for 16 or 32 columns."""
    if tall:
        if more:
            _product(s, out, ld, a, ar, ak, x, xk, rows, depth, columns, 1, 1)
        else:
            _product(s, out, ld, a, ar, ak, x, xk, rows, depth, columns, 0, 1)
    else:
        _product(s, out, ld, a, ar, ak, x, xk, rows, depth, columns, 0, 0)


@emitted
def _outer(e: Emit, s, out, ld, a, x, rows, width, columns, ak, b, y, pairs):
    """out[r, k] += a[r, c] x[k, c] (+ b[r, c] y[k, c] if `pairs` is 2), lane by lane: a register for each entry."""

    def band(r: ir.Value, height: int) -> None:
        def block(k: ir.Value, breadth: int) -> None:
            copies = max(1, min(4, 8 // (height * breadth)))  # of the tile, not of its parts: the order of a sum
            tall, wide = divided(e, height, breadth, copies)
            for i, j in itertools.product(range(0, height, tall), range(0, breadth, wide)):
                for first, kind in e.halves():
                    shape = min(tall, height - i), min(wide, breadth - j)
                    part(e.add(r, i), e.add(k, j), *shape, copies, first, kind)

        def part(r: ir.Value, k: ir.Value, height: int, breadth: int, copies: int, lane: int, kind: Any) -> None:
            places = [e.add(out, e.times(e.add(e.times(e.add(r, i), ld), k, j), LANES), lane)
                      for i in range(height) for j in range(breadth)]  # fmt: skip
            size = height * breadth

            def add(c: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
                new = list(held)
                for left, right in ((a, x), (b, y))[:pairs]:
                    first = [e.load(s, e.add(left, e.times(e.add(r, i), ak), c, lane), kind) for i in range(height)]
                    for j in range(breadth):
                        second = e.load(s, e.add(right, e.times(e.add(k, j), ak), c, lane), kind)
                        for i in range(height):
                            new[i * breadth + j] = e.fma(first[i], second, new[i * breadth + j])
                return new

            def several(c: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
                parts = [add(e.add(c, LANES * q), held[q * size : (q + 1) * size]) for q in range(copies)]
                return list(itertools.chain.from_iterable(parts))

            start = [e.load(s, place, kind) for place in places] + [e.constant(0.0, kind)] * (size * (copies - 1))
            whole = e.b.sub(e.whole(columns), e.b.srem(e.whole(columns), e.whole(LANES * copies)))
            sums = e.loop(0, whole, LANES * copies, start, several)
            for q in range(1, copies):
                sums = [e.b.fadd(sums[j], sums[q * size + j]) for j in range(size)] + list(sums[size:])
            sums = e.loop(whole, columns, LANES, sums[:size], add)
            for place, value in zip(places, sums, strict=True):
                e.store(value, s, place)

        e.pieces(0, width, range(6, 0, -1), block)

    e.pieces(0, rows, range(4, 0, -1), band)


@nb.njit(nogil=True)
def outer(s, out, ld, a, x, rows, width, columns, ak, b, y, pairs):
    """out[r, k] += a[r, c] x[k, c] (+ b[r, c] y[k, c] if `pairs` is 2), lane by lane: a register for each entry."""
    if pairs == 2:
        _outer(s, out, ld, a, x, rows, width, columns, ak, b, y, 2)
    else:
        _outer(s, out, ld, a, x, rows, width, columns, ak, b, y, 1)


@emitted
def totals(e: Emit, s, out, sums, step, count, scale):
    """out[j] += scale times the sum over the lanes of the register at sums + j step."""
    factor = e.real(scale)

    def one(j: ir.Value, _: Any) -> None:
        value = e.b.fmul(e.total(e.load(s, e.add(sums, e.times(j, step)))), factor)
        e.b.store(e.b.fadd(e.scalar(s, e.add(out, j)), value), e.at(s, e.add(out, j)))

    e.loop(0, count, 1, (), one)


@emitted
def clear(e: Emit, s, at, count):
    """Zero `count` numbers, a multiple of 16."""
    e.loop(0, count, LANES, (), lambda i, _: e.store(e.constant(0.0), s, e.add(at, i)))


@emitted
def scale(e: Emit, s, at, count, factor):
    """Multiply `count` numbers, a multiple of 16."""
    by = e.splat(e.real(factor))

    def one(i: ir.Value, _: Any) -> None:
        e.store(e.b.fmul(e.load(s, e.add(at, i)), by), s, e.add(at, i))

    e.loop(0, count, LANES, (), one)


@emitted
def rectify(e: Emit, s, at, ld, rows, columns, bias):
    """at[r, c] = ReLU(at[r, c] + bias[r])."""

    def row(r: ir.Value, _: Any) -> None:
        shift = e.splat(e.scalar(s, e.add(bias, r)))

        def one(c: ir.Value, _: Any) -> None:
            place = e.add(at, e.times(r, ld), c)
            e.store(e.maximum(e.b.fadd(e.load(s, place), shift), e.constant(0.0)), s, place)

        e.loop(0, columns, LANES, (), one)

    e.loop(0, rows, 1, (), row)


@emitted
def through(e: Emit, s, at, ld, gate, rows, columns, sums):
    """at[r, c] = 0 where gate[r, c] is; what is left is added to a register for each row."""

    def row(r: ir.Value, _: Any) -> None:
        def one(c: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
            place = e.add(e.times(r, ld), c)
            on = e.b.fcmp_ordered(">", e.load(s, e.add(gate, place)), e.constant(0.0))
            value = e.b.select(on, e.load(s, e.add(at, place)), e.constant(0.0))
            e.store(value, s, e.add(at, place))
            return [e.b.fadd(held[0], value)]

        kept = e.add(sums, e.times(r, LANES))
        e.store(e.loop(0, columns, LANES, [e.load(s, kept)], one)[0], s, kept)

    e.loop(0, rows, 1, (), row)


@emitted
@answers
def sound(e: Emit, s, at, count):
    """Whether the squares of `count` numbers, a multiple of 16, are all finite."""

    def one(i: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
        g = e.load(s, e.add(at, i))
        return [e.b.fadd(held[0], e.b.fmul(e.b.fmul(g, g), e.constant(0.0)))]  # 0 or NaN

    nothing = e.total(e.loop(0, count, LANES, [e.constant(0.0)], one)[0])
    return e.b.zext(e.b.fcmp_ordered("==", nothing, ir.Constant(e.element, 0.0)), INT)


@emitted
def adam(e: Emit, s, theta, gradient, first, second, count, share1, share2, eps, size, root, decay):
    """One step of AdamW (Loshchilov and Hutter 2019, algorithm 2). Moments too small to matter become zero: an
    inactive parameter's would shrink until arithmetic with them is slow."""
    b = e.b
    share1, share2, eps, size, root, decay = (e.splat(e.real(v)) for v in (share1, share2, eps, size, root, decay))
    tiny, zero = e.constant(1e-30), e.constant(0.0)
    suffix = "v16f32" if e.element == ir.FloatType() else "v16f64"

    def one(i: ir.Value, _: Any) -> None:
        g, m, v, p = (e.load(s, e.add(at, i)) for at in (gradient, first, second, theta))
        m = e.fma(share1, b.fsub(g, m), m)
        v = e.fma(share2, b.fsub(b.fmul(g, g), v), v)
        m = b.select(b.fcmp_ordered("<", e.call(f"llvm.fabs.{suffix}", e.vector, m), tiny), zero, m)
        v = b.select(b.fcmp_ordered("<", v, tiny), zero, v)
        below = e.fma(root, e.call(f"llvm.sqrt.{suffix}", e.vector, v), eps)
        p = b.fsub(b.fmul(decay, p), b.fdiv(b.fmul(size, m), below))
        for value, at in ((m, first), (v, second), (p, theta)):
            e.store(value, s, e.add(at, i))

    e.loop(0, count, LANES, (), one)


# ------------------------------------------------------------------------------------------------------------- data


def _valued(e: Emit, v: ir.Value, magnitude: int) -> ir.Value:
    """Values of active features from v, uniform on (0, 1)."""
    one = e.constant(1.0, v.type)
    if magnitude == UNIFORM:
        return v
    if magnitude == SIGNED:
        return e.b.fsub(e.b.fadd(v, v), one)
    if magnitude == BOOLEAN:
        return one
    if magnitude == SIGN:
        return e.b.select(e.b.fcmp_ordered("<", v, e.constant(0.5, v.type)), e.constant(-1.0, v.type), one)
    raise ValueError(f"no such magnitude: {magnitude}")


def _bits(e: Emit, active: ir.Value, sample: int) -> ir.Value:
    """Which lanes are on, as bits of a word of 64 samples."""
    return e.b.shl(e.b.zext(e.b.bitcast(active, ir.IntType(active.type.count)), INT), e.whole(sample))


@emitted
@answers
def draw(e: Emit, s, at, t, keys, feature, lanes, threshold, inverse, magnitude, capped):
    """64 values of one feature at s[at:]; the answer's bits say which are active.

    threshold: 2^31 p, infinite for p = 1; inverse: 2^-31 / p. `capped` is needed where p = 1 may occur.
    """
    b, mask = e.b, e.whole(0)
    limit, factor = (e.single(e.scalar(s, place)) for place in (threshold, inverse))
    for sample, word in random.words(e, t, keys, feature, lanes):
        u = random.scaled(e, word)
        active = b.fcmp_ordered("<", u, e.splat(limit, u.type.count))
        u = random.capped(e, u) if capped else u
        v = _valued(e, b.fmul(u, e.splat(factor, u.type.count)), magnitude)
        e.store(e.widened(b.select(active, v, e.constant(0.0, v.type))), s, e.add(at, sample))
        mask = b.or_(mask, _bits(e, active, sample))
    return mask


@emitted
def draw_group(e: Emit, s, at, t, keys, feature, lanes, density):
    """Which member of a group each of 64 samples asks for, floor(u / p), at s[at:]."""
    p = e.single(e.scalar(s, density))
    for sample, word in random.words(e, t, keys, feature, lanes):
        u = random.uniform(e, word)
        which = e.call(f"llvm.floor.v{u.type.count}f32", u.type, e.b.fdiv(u, e.splat(p, u.type.count)))
        e.store(e.widened(which), s, e.add(at, sample))


@emitted
@answers
def draw_member(e: Emit, s, at, t, keys, feature, lanes, which, member, magnitude):
    """64 values of one feature at s[at:], active where s[which:] is `member`; the answer's bits say where."""
    b, mask, asked = e.b, e.whole(0), e.b.sitofp(e.whole(member), e.element)
    for sample, word in random.words(e, t, keys, feature, lanes):
        v = _valued(e, random.uniform(e, word), magnitude)
        wanted = e.load(s, e.add(which, sample), ir.VectorType(e.element, v.type.count))
        active = b.fcmp_ordered("==", wanted, e.splat(asked, v.type.count))
        e.store(e.widened(b.select(active, v, e.constant(0.0, v.type))), s, e.add(at, sample))
        mask = b.or_(mask, _bits(e, active, sample))
    return mask


def _order(bits: int, lanes: int) -> list[int]:
    """The lanes whose bits are on, then the others: how a register is squeezed."""
    return sorted(range(lanes), key=lambda lane: not bits >> lane & 1)


def _packed(e: Emit, value: ir.Value, bits: ir.Value) -> ir.Value:
    """The lanes of a register of 32-bit lanes whose bits are on, next to each other: a permutation from a table."""
    permd, lanes = e.registers.packs == "permd", value.type.count
    each = 1 if permd else 4  # bytes of a lane in a row of the table
    rows = [[each * lane + byte for lane in _order(mask, lanes) for byte in range(each)] for mask in range(1 << lanes)]
    order = e.b.zext(
        e.row(f"toysup.{e.registers.packs}", rows, bits), ir.VectorType(INT32 if permd else INT8, lanes * each)
    )
    given = e.b.bitcast(value, order.type)
    name = {"permd": "llvm.x86.avx2.permd", "pshufb": "llvm.x86.ssse3.pshuf.b.128",
            "tbl": "llvm.aarch64.neon.tbl1.v16i8"}[e.registers.packs]  # fmt: skip
    return e.b.bitcast(e.call(name, order.type, given, order), value.type)


def keep(e: Emit, value: ir.Value, bits: ir.Value, pointer: ir.Value, at: Any) -> ir.Value:
    """Store the lanes of `value` whose bits are on next to each other at pointer[at:]; where the next ones go.

    Up to sixteen places may be overwritten. Lanes of 64 bits go one by one but for AVX-512 (LLVM's own expansion of a
    compression crashes, 22.1), and so do all where registers know no permutation.
    """
    kind = value.type.element
    double, packs, at = kind == ir.DoubleType(), e.registers.packs, e.whole(at)
    if not packs or (double and packs != "compress"):
        for lane in range(LANES):
            e.b.store(e.b.extract_element(value, ir.Constant(INT32, lane)), e.b.gep(pointer, [at]))
            bit = e.b.and_(e.b.lshr(bits, ir.Constant(bits.type, lane)), ir.Constant(bits.type, 1))
            at = e.b.add(at, e.b.zext(bit, INT))
        return at
    width = e.registers.bits // (64 if double else 32) if packs in ("compress", "permd") else 4
    name, part = {ir.FloatType(): "f32", ir.DoubleType(): "f64", INT32: "i32"}[kind], ir.VectorType(kind, width)
    for first in range(0, LANES, width):
        mask = ir.Constant(ir.VectorType(INT32, width), list(range(first, first + width)))
        lanes = e.b.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), mask)
        some = e.b.trunc(e.b.lshr(bits, ir.Constant(bits.type, first)), ir.IntType(width))
        if packs == "compress":
            on = e.b.bitcast(some, ir.VectorType(ir.IntType(1), width))
            packed = e.call(
                f"llvm.experimental.vector.compress.v{width}{name}", part, lanes, on, ir.Constant(part, None)
            )
        else:
            packed = _packed(e, lanes, some)
        e.b.store(packed, e.b.bitcast(e.b.gep(pointer, [at]), part.as_pointer())).align = 4
        at = e.b.add(at, e.b.zext(e.call(f"llvm.ctpop.i{width}", some.type, some), INT))
    return at


@emitted
@answers
def squeeze(e: Emit, s, row, t, masks, blocks):
    """Keep of a row the samples whose bits are on in t[masks:], one word for each block of 64; how many are left.

    Sixteen zeros follow them.
    """

    def block(i: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
        mask, place = e.scalar(t, e.add(masks, i)), held[0]
        for position in range(0, BLOCK, LANES):
            value = e.load(s, e.add(row, e.times(i, BLOCK), position))
            bits = e.b.trunc(e.b.lshr(mask, e.whole(position)), ir.IntType(LANES))
            place = keep(e, value, bits, s, place)
        return [place]

    place = e.loop(0, blocks, 1, [e.whole(row)], block)[0]
    e.store(e.constant(0.0), s, place)
    return e.b.sub(place, e.whole(row))


# ----------------------------------------------------------------------------------------- samples along the rows


@emitted
def turned(e: Emit, s, out, ld, a, lda, rows, columns):
    """out[c, r] = a[r, c]; rows a multiple of 16."""

    def column(c: ir.Value, _: Any) -> None:
        def some(r: ir.Value, _: Any) -> None:
            value = ir.Constant(e.vector, ir.Undefined)
            for i in range(LANES):
                entry = e.scalar(s, e.add(a, e.times(e.add(r, i), lda), c))
                value = e.b.insert_element(value, entry, ir.Constant(INT32, i))
            e.store(value, s, e.add(out, e.times(c, ld), r))

        e.loop(0, rows, LANES, (), some)

    e.loop(0, columns, 1, (), column)


@emitted
def rectify_rows(e: Emit, s, at, ld, rows, columns, bias):
    """at[r, c] = ReLU(at[r, c] + bias[c])."""

    def row(r: ir.Value, _: Any) -> None:
        def one(c: ir.Value, _: Any) -> None:
            place = e.add(at, e.times(r, ld), c)
            value = e.b.fadd(e.load(s, place), e.load(s, e.add(bias, c)))
            e.store(e.maximum(value, e.constant(0.0)), s, place)

        e.loop(0, columns, LANES, (), one)

    e.loop(0, rows, 1, (), row)


@emitted
def through_rows(e: Emit, s, at, ld, gate, rows, columns, sums):
    """at[r, c] = 0 where gate[r, c] is; sums[c] += what is left."""

    def some(c: ir.Value, _: Any) -> None:
        def row(r: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
            place = e.add(e.times(r, ld), c)
            on = e.b.fcmp_ordered(">", e.load(s, e.add(gate, place)), e.constant(0.0))
            value = e.b.select(on, e.load(s, e.add(at, place)), e.constant(0.0))
            e.store(value, s, e.add(at, place))
            return [e.b.fadd(held[0], value)]

        e.store(e.loop(0, rows, 1, [e.load(s, e.add(sums, c))], row)[0], s, e.add(sums, c))

    e.loop(0, columns, LANES, (), some)


# ------------------------------------------------------------------------------------------------ lists of entries


def _numbers(e: Emit, t: ir.Value) -> ir.Value:
    """t as 32-bit numbers."""
    return e.b.bitcast(t, INT32.as_pointer())


@emitted
@answers
def listed(e: Emit, s, row, columns, t, index, values):
    """The entries of a row that are not 0: their columns from the `index`-th 32-bit number of t on, and their values
    from s[values:]; how many there are. Sixteen more places may be overwritten."""
    lanes = ir.Constant(ir.VectorType(INT32, LANES), list(range(LANES)))

    def some(c: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
        value = e.load(s, e.add(row, c))
        bits = e.b.bitcast(e.b.fcmp_unordered("!=", value, e.constant(0.0)), ir.IntType(LANES))
        column = e.b.add(lanes, e.splat(e.b.trunc(c, INT32)))
        after = keep(e, column, bits, _numbers(e, t), e.add(index, held[0]))
        keep(e, value, bits, s, e.add(values, held[0]))
        return [e.b.sub(after, e.whole(index))]

    return e.loop(0, columns, LANES, [e.whole(0)], some)[0]


@emitted
@answers
def entries(e: Emit, s, row, columns):
    """How many entries of a row are not 0."""

    def some(c: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
        on = e.b.fcmp_unordered("!=", e.load(s, e.add(row, c)), e.constant(0.0))
        count = e.call("llvm.ctpop.i16", ir.IntType(LANES), e.b.bitcast(on, ir.IntType(LANES)))
        return [e.b.add(held[0], e.b.zext(count, INT))]

    return e.loop(0, columns, LANES, [e.whole(0)], some)[0]


@emitted
def spread(e: Emit, s, t, index, values, count, ld, row, out, gradient, other, width, scatter, collect):
    """For each listed (c, v): out[c] += v row, if `scatter`; gradient += v other[c], if `collect`; 16 width columns."""
    weights = [e.load(s, e.add(row, LANES * w)) for w in range(width)] if scatter else []
    start = [e.load(s, e.add(gradient, LANES * w)) for w in range(width)] if collect else []

    def one(i: ir.Value, held: Sequence[ir.Value]) -> list[ir.Value]:
        column = e.b.zext(e.scalar(_numbers(e, t), e.add(index, i)), INT)
        value = e.splat(e.scalar(s, e.add(values, i)))
        place = e.times(column, ld)
        if collect:
            held = [e.fma(value, e.load(s, e.add(other, place, LANES * w)), held[w]) for w in range(width)]
        for w in range(width) if scatter else ():
            at = e.add(out, place, LANES * w)
            e.store(e.fma(value, weights[w], e.load(s, at)), s, at)
        return held

    for w, total in enumerate(e.loop(0, count, 1, start, one)):
        e.store(total, s, e.add(gradient, LANES * w))
