"""Vector code for numba kernels: loops over 16 lanes, written by hand in LLVM's portable vector types.

numba's own vectoriser works on innermost loops only, so it can't keep a tile of sums in registers while a loop over
something else goes on inside. An `@emitted` function writes such code itself: it is called at compile time with an
`Emit`, which appends instructions on vectors of 16 numbers. LLVM turns them into whatever the processor has: one
512-bit register, two of 256 bits, four of 128. Nothing here needs a compiler on the user's machine.

Arrays reach an emitted function as pointers, whole numbers written in the kernel as Python ints, the rest as values.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numba.np import arrayobj

__all__ = ["LANES", "Emit", "Registers", "answers", "emitted", "source_of"]

LANES = 16
INT = ir.IntType(64)
INT32 = ir.IntType(32)
INT8 = ir.IntType(8)


def source_of(*modules: str) -> str:
    """Hash of the sources of some modules, by their names, and of this one.

    numba's cache on disk notices changes of the file a kernel stands in only. A kernel that mentions this string as a
    variable of an enclosing function is compiled anew when any of the files changed. Modules are named, not files: what
    a kernel does, and what its results are kept under, has nothing to do with the folder it lies in.
    """
    files = [Path(str(sys.modules[name].__file__)) for name in (__name__, *modules)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def emitted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make `function(e, *arguments)` callable in numba code; the element type is that of the first array."""
    parameters = list(inspect.signature(function).parameters.values())[1:]

    def typing(context, *given):
        kept = [t if isinstance(t, types.Array | types.IntegerLiteral | types.Float) else types.int64 for t in given]
        answer = types.int64 if getattr(function, "answers", False) else types.void

        def generate(context, builder, signature, values):
            arguments, element = [], None
            for kind, value in zip(signature.args, values, strict=True):
                if isinstance(kind, types.IntegerLiteral):
                    value = kind.literal_value
                elif isinstance(kind, types.Array):
                    element = element or context.get_value_type(kind.dtype)
                    value = arrayobj.make_array(kind)(context, builder, value).data
                arguments.append(value)
            triple, _, features = context.codegen().magic_tuple()
            result = function(Emit(builder, element, Registers.of(triple, features)), *arguments)
            return context.get_dummy_value() if result is None else result

        return answer(*kept), generate

    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    typing.__signature__ = inspect.Signature([first, *parameters])
    typing.__name__ = function.__name__
    return intrinsic(prefer_literal=True)(typing)


def answers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark an emitted function that gives back a whole number (write it below `@emitted`)."""
    function.answers = True
    return function


class Registers(NamedTuple):
    """The vector registers of a processor: how many there are, their bits, and by what instruction lanes are squeezed
    together: one that does it (AVX-512's "compress"), or a permutation of the eight lanes (AVX2's "permd") or of the
    sixteen bytes ("pshufb", "tbl") of a register; "" where there is none."""

    number: int
    bits: int
    packs: str = ""

    @classmethod
    def of(cls, triple: str, features: str) -> Registers:
        """Those of a target as LLVM names it; "+avx512f,-avx512er,..." are features."""
        own = set(features.split(","))
        if "+avx512f" in own:
            return cls(32, 512, "compress")
        if triple.startswith(("aarch64", "arm64")):
            return cls(32, 128, "tbl")
        if own & {"+avx", "+avx2"}:
            return cls(16, 256, "permd" if "+avx2" in own else "pshufb")
        return cls(16, 128, "pshufb" if "+ssse3" in own else "")


class Emit:
    """Appends instructions where numba's builder stands. Offsets count elements, not bytes."""

    def __init__(self, builder: ir.IRBuilder, element: ir.Type, registers: Registers) -> None:
        self.b, self.element, self.registers = builder, element, registers
        self.vector = ir.VectorType(element, LANES)

    @property
    def lanes(self) -> int:
        """Elements in one register, at most `LANES`."""
        return min(LANES, self.registers.bits // (64 if self.element == ir.DoubleType() else 32))

    def halves(self) -> list[tuple[int, ir.VectorType]]:
        """A vector of `LANES` elements as registers: where each starts, and its kind."""
        kind = ir.VectorType(self.element, self.lanes)
        return [(first, kind) for first in range(0, LANES, self.lanes)]

    def joined(self, parts: Sequence[ir.Value]) -> ir.Value:
        """Registers as one vector of `LANES` elements."""
        parts = list(parts)
        while len(parts) > 1:
            both = ir.Constant(ir.VectorType(INT32, 2 * parts[0].type.count), list(range(2 * parts[0].type.count)))
            parts = [self.b.shuffle_vector(low, high, both) for low, high in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    # ------------------------------------------------------------------------------------------------ whole numbers

    def whole(self, value: Any) -> ir.Value:
        return ir.Constant(INT, value) if isinstance(value, int) else value

    def add(self, *terms: Any) -> Any:
        """Sum of whole numbers, of which some may be Python's."""
        known = sum(term for term in terms if isinstance(term, int))
        total = None
        for term in terms:
            if not isinstance(term, int):
                total = term if total is None else self.b.add(total, term)
        if total is None:
            return known
        return self.b.add(total, self.whole(known)) if known else total

    def times(self, a: Any, c: Any) -> Any:
        """Product of whole numbers, of which some may be Python's."""
        if isinstance(a, int) and isinstance(c, int):
            return a * c
        return 0 if 0 in (a, c) else self.b.mul(self.whole(a), self.whole(c))

    # -------------------------------------------------------------------------------------------------------- loops

    def loop(
        self,
        start: Any,
        stop: Any,
        step: int,
        carried: Sequence[ir.Value],
        body: Callable[..., Sequence[ir.Value] | None],
    ) -> list[ir.Value]:
        """for i in range(start, stop, step): carried = body(i, carried); the last `carried`."""
        b = self.b
        before = b.block
        head, inner, done = (b.append_basic_block(name) for name in ("head", "inner", "done"))
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(INT)
        held = [b.phi(value.type) for value in carried]
        b.cbranch(b.icmp_signed("<", index, self.whole(stop)), inner, done)
        b.position_at_end(inner)
        new = list(body(index, held) or ())
        after, following = b.block, b.add(index, self.whole(step))
        b.branch(head)
        index.add_incoming(self.whole(start), before)
        index.add_incoming(following, after)
        for phi, first, last in zip(held, carried, new, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(last, after)
        b.position_at_end(done)
        return held

    def pieces(self, start: Any, stop: Any, sizes: Sequence[int], body: Callable[[Any, int], None]) -> None:
        """Cut [start, stop) into pieces of the sizes given, largest first, and call body(position, size) for each.

        The sizes end with one that leaves nothing over: 1, or the multiple that stop - start is known to have.
        """
        for size in sizes:
            whole = self.add(stop, 1 - size)

            def once(i: ir.Value, _: Any, size: int = size) -> None:
                body(i, size)

            self.loop(start, whole, size, (), once)
            count = self.b.sub(self.whole(stop), self.whole(start))
            rest = self.b.srem(count, self.whole(size))
            start = self.b.sub(self.whole(stop), rest)

    # ------------------------------------------------------------------------------------------------------ vectors

    def at(self, pointer: ir.Value, offset: Any) -> ir.Value:
        return self.b.gep(pointer, [self.whole(offset)])

    def scalar(self, pointer: ir.Value, offset: Any) -> ir.Value:
        return self.b.load(self.at(pointer, offset))

    def load(self, pointer: ir.Value, offset: Any, kind: ir.Type | None = None) -> ir.Value:
        kind = kind or self.vector
        value = self.b.load(self.b.bitcast(self.at(pointer, offset), kind.as_pointer()))
        value.align = 4
        return value

    def store(self, value: ir.Value, pointer: ir.Value, offset: Any) -> None:
        self.b.store(value, self.b.bitcast(self.at(pointer, offset), value.type.as_pointer())).align = 4

    def row(self, name: str, rows: Sequence[Sequence[int]], index: ir.Value) -> ir.Value:
        """One row, at a whole number, of a constant table of bytes that the module keeps by a name."""
        kind = ir.VectorType(INT8, len(rows[0]))
        table = self.b.module.globals.get(name)
        if table is None:
            table = ir.GlobalVariable(self.b.module, ir.ArrayType(kind, len(rows)), name)
            table.initializer = ir.Constant(table.value_type, [ir.Constant(kind, list(row)) for row in rows])
            table.linkage, table.global_constant = "internal", True
        return self.b.load(self.b.gep(table, [self.whole(0), self.b.zext(index, INT)]))

    def splat(self, value: ir.Value, count: int = LANES) -> ir.Value:
        """All lanes equal to one scalar."""
        empty = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
        zeros = ir.Constant(ir.VectorType(INT32, count), [0] * count)
        return self.b.shuffle_vector(self.b.insert_element(empty, value, ir.Constant(INT32, 0)), empty, zeros)

    def constant(self, value: float, kind: ir.VectorType | None = None) -> ir.Constant:
        kind = kind or self.vector
        return ir.Constant(kind, [value] * kind.count)

    def real(self, value: ir.Value) -> ir.Value:
        """A number from the kernel as an element."""
        if value.type == self.element:
            return value
        return (self.b.fptrunc if value.type == ir.DoubleType() else self.b.fpext)(value, self.element)

    def single(self, value: ir.Value) -> ir.Value:
        """An element as float32."""
        return value if value.type == ir.FloatType() else self.b.fptrunc(value, ir.FloatType())

    def widened(self, value: ir.Value) -> ir.Value:
        """A float32 vector as one of elements."""
        return (
            value
            if self.element == ir.FloatType()
            else self.b.fpext(value, ir.VectorType(self.element, value.type.count))
        )

    def fma(self, a: ir.Value, c: ir.Value, d: ir.Value) -> ir.Value:
        """a c + d, in one rounding where the processor can."""
        return self.b.fadd(self.b.fmul(a, c, flags=("contract",)), d, flags=("contract",))

    def maximum(self, a: ir.Value, c: ir.Value) -> ir.Value:
        """Larger of two; NaN in `a` gives NaN, so that nothing that diverged looks sound."""
        return self.b.select(self.b.fcmp_ordered(">", c, a), c, a)

    def total(self, value: ir.Value) -> ir.Value:
        """Sum over lanes, halves added first."""
        width = value.type.count
        while width > 1:
            width //= 2
            mask = ir.Constant(ir.VectorType(INT32, width), [0] * width)
            low, high = (
                self.b.shuffle_vector(value, value, ir.Constant(mask.type, [base + i for i in range(width)]))
                for base in (0, width)
            )
            value = self.b.fadd(low, high)
        return self.b.extract_element(value, ir.Constant(INT32, 0))

    def call(self, name: str, result: ir.Type, *values: ir.Value) -> ir.Value:
        """An LLVM intrinsic by its full name."""
        kind = ir.FunctionType(result, [value.type for value in values])
        function = self.b.module.globals.get(name) or ir.Function(self.b.module, kind, name)
        return self.b.call(function, values)
