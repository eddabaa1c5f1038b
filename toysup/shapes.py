"""Width against depth at a fixed parameter budget: what a shape costs, and which shapes cost the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from toysup.checks import InputError, check_interval, check_kind, check_whole, whole_numbers

__all__ = ["BudgetedShape", "Shape", "model_b_of", "shapes_at_budget", "shapes_by_halving"]


@dataclass(frozen=True, order=True)
class Shape:
    """A stack of `depth` residual blocks, each of `hidden` ReLU neurons, on a residual stream of `width` dimensions.

    `hidden` defaults to `width`. Raises InputError unless width and hidden are >= 1 and depth >= 0.
    """

    width: int
    depth: int
    hidden: int | None = None

    def __post_init__(self) -> None:
        if self.hidden is None:
            object.__setattr__(self, "hidden", self.width)
        for name, least in (("width", 1), ("depth", 0), ("hidden", 1)):
            object.__setattr__(self, name, check_whole("Shape", name, getattr(self, name), least))  # numpy's overflow

    def __str__(self) -> str:
        return f"{self.width}x{self.depth}" + (f"h{self.hidden}" if self.hidden != self.width else "")

    @property
    def parameters(self) -> int:
        """Nominal non-embedding weights N = 2 d h L (Kaplan et al. 2020 count weights, not biases)."""
        return 2 * self.width * self.hidden * self.depth

    def live_parameters(self, read: int | None = None) -> int:
        """Weights that can reach the output: the last block writes only the `read` coordinates that are read.

        `read` in [1, width]; None reads them all. N_live = 2 d h L - h (d - read).
        """
        if read is not None and check_whole("Shape", "read", read) > self.width:
            raise InputError(f"Shape: read must lie in [1, width={self.width}], got {read}")
        unread = self.width - read if read is not None and self.depth else 0
        return self.parameters - self.hidden * unread

    @property
    def biases(self) -> int:
        """One bias for each hidden neuron; not part of the budget."""
        return self.hidden * self.depth

    def embedding_parameters(self, n_in: int, n_out: int = 0) -> int:
        """Embedding n_in x d plus unembedding d x n_out (0 where it is tied or reads coordinates)."""
        check_whole("Shape", "n_in", n_in, 0)
        check_whole("Shape", "n_out", n_out, 0)
        return self.width * (n_in + n_out)

    @property
    def neurons(self) -> int:
        """Hidden neurons h L."""
        return self.hidden * self.depth

    @property
    def note_neurons(self) -> int:
        """Neurons as Katta 2024 counts them: d L, the dimensions of all layers."""
        return self.width * self.depth

    @property
    def aspect_ratio(self) -> float:
        """width / depth."""
        return self.width / self.depth if self.depth else float("inf")


class BudgetedShape(NamedTuple):
    """A shape, its live parameters, and its relative rounding error live / budget - 1."""

    shape: Shape
    parameters: int
    rounding_error: float


def _hidden_for(budget: float, width: int, depth: int, read: int | None) -> int:
    """The whole number of neurons in a block that brings the live parameters nearest to the budget."""
    per_neuron = Shape(width, depth, 1).live_parameters(read)
    return max(1, round(budget / per_neuron))


def _narrowest(parameters: float, depth: int, ratio: float, read: int) -> int:
    """A width that none is below with so many live parameters: as hidden <= r d + 1, live <= (r d + 1) (k d + read),
    k = 2 L, or 2 L - 1 where only some coordinates are read."""
    k = 2 * depth - (read > 0)
    b, lacking = k + ratio * read, parameters - read
    return math.floor(2 * lacking / (b + math.sqrt(b * b + 4 * ratio * k * lacking))) if lacking > 0 else 0


def shapes_at_budget(
    budget: int,
    *,
    tolerance: float = 0.02,
    depths: Iterable[int] | None = None,
    hidden_ratio: float | None = 1.0,
    read: int | None = None,
    max_depth: int = 64,
) -> list[BudgetedShape]:
    """Every (width, depth) whose live parameters lie within `tolerance` (relative) of `budget`, shallowest first.

    With a `hidden_ratio` r, hidden = round(r d); with None, hidden is free and chosen to come nearest to the budget,
    for every width with d / 4 <= hidden <= 4 d. `read` as in `Shape.live_parameters`; widths below it are left out.

    Raises InputError where no shape qualifies, naming the nearest.
    """
    where = "shapes_at_budget"
    budget = check_whole(where, "budget", budget, at_most=2**48 - 1)
    check_interval(where, "tolerance", tolerance, 0, 1, one=True)
    if hidden_ratio is not None:
        check_interval(where, "hidden_ratio", hidden_ratio, 0, open_low=True, one=True)
    if read is not None:
        check_whole(where, "read", read)
    check_whole(where, "max_depth", max_depth, at_most=2**16 - 1)
    depths = range(1, max_depth + 1) if depths is None else depths
    found: list[BudgetedShape] = []
    nearest: BudgetedShape | None = None
    for depth in whole_numbers(where, "depths", depths, 1):
        least = read or 1
        if hidden_ratio:
            least = max(least, _narrowest((1 - tolerance) * budget, depth, hidden_ratio, read or 0) - 1)
        for width in range(least, math.floor((1 + tolerance) * budget) + 1):  # live >= width
            hidden = max(1, round(hidden_ratio * width)) if hidden_ratio else _hidden_for(budget, width, depth, read)
            if not hidden_ratio and hidden < width / 4:
                break  # wider ones have fewer still
            if not hidden_ratio and hidden > 4 * width:
                continue
            shape = Shape(width, depth, hidden)
            live = shape.live_parameters(read)
            candidate = BudgetedShape(shape, live, live / budget - 1)
            if nearest is None or abs(candidate.rounding_error) < abs(nearest.rounding_error):
                nearest = candidate
            if abs(candidate.rounding_error) <= tolerance:
                found.append(candidate)
            if hidden_ratio and live > (1 + tolerance) * budget:
                break
    if not found:
        best = "none at all" if nearest is None else f"{nearest.shape} with {nearest.parameters}"
        raise InputError(
            f"shapes_at_budget: no shape has {budget} live parameters within {tolerance:.1%}; nearest is {best}"
        )
    return found


def shapes_by_halving(
    deep: Shape, factors: Sequence[float], *, tolerance: float = 0.02, read: int | None = None
) -> list[Shape]:
    """Shapes of as many live parameters as `deep`, each half as deep as the one before, down to one block.

    At each depth it is that whose aspect ratio is nearest, as a ratio, to `factors` (one for each depth, 1 for the
    first) times that of `deep`, of all that `shapes_at_budget` finds within `tolerance` with hidden free.

    Raises InputError for fewer factors than depths, and where no shape qualifies.
    """
    where = "shapes_by_halving"
    check_kind(where, "deep", deep, Shape)
    check_interval(where, "factors", factors, 0, open_low=True)
    depths = [deep.depth >> power for power in range(deep.depth.bit_length())]
    if len(factors) < len(depths):
        raise InputError(f"{where}: expected a factor for each of the depths {depths}, got {len(factors)}")
    found = []
    for depth, factor in zip(depths, factors, strict=False):
        near = shapes_at_budget(
            deep.live_parameters(read), tolerance=tolerance, depths=[depth], hidden_ratio=None, read=read
        )
        aspect = deep.aspect_ratio * factor
        found.append(min((one.shape for one in near), key=lambda shape: abs(math.log(shape.aspect_ratio / aspect))))
    return found


def model_b_of(shape: Shape, read: int | None = None) -> Shape:
    """The note's doubling move (Katta 2024): twice the width, a quarter of the depth, the same parameters.

    Where everything is read, hidden doubles too and the counts agree exactly. Where only `read` coordinates are read,
    the shallower network loses more of its last block, so hidden is set to bring the live parameters nearest to
    those of `shape`; `shapes_at_budget` reports such errors, `live_parameters` counts them.

    Raises InputError where depth is not a multiple of four.
    """
    check_kind("model_b_of", "shape", shape, Shape)
    if shape.depth % 4 or not shape.depth:
        raise InputError(f"model_b_of: depth must be a multiple of 4 to be quartered, got {shape.depth}")
    width, depth = 2 * shape.width, shape.depth // 4
    return Shape(width, depth, _hidden_for(shape.live_parameters(read), width, depth, read))
