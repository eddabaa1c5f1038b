"""How layers share features: what several hold jointly and one by one, and how evenly they divide what they do.

Pure functions of what probes and attributions found: (..., layer, feature), or a `Decoded`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toysup.checks import InputError, check_interval, check_whole

__all__ = [
    "BySize",
    "Decoded",
    "Lifetime",
    "Participation",
    "by_size",
    "dealt",
    "gamma",
    "lifetime",
    "longest_run",
    "participation",
    "participation_ratio",
    "shuffled",
    "shuffled_lifetime",
    "subsets",
]


class Decoded(NamedTuple):
    """What a probe of each set of parts (layers, or groups of units) recovers.

    `sets` begins with every part alone. `share` is a feature's held-out R^2 or its label's probability, NaN where that
    is not known: the feature never varies, or was seen to too seldom. `found` says whether it is recovered; behind that
    stand, for labels, the answers to "would this wrong label have been found?", once for each, which tell how often
    luck finds one. Counts leave out what is not known (`unknown` is the share), and are NaN where nothing is.
    """

    sets: tuple[tuple[int, ...], ...]
    share: Float[Tensor, "instance set feature"]
    found: Bool[Tensor, "instance set feature answer"]

    def count(self) -> Float[Tensor, "instance set"]:
        """F(S): features recovered from each set jointly, less those that luck finds."""
        return self._counted(self.found, self._known())

    def union(self) -> Float[Tensor, "instance set"]:
        """Features recovered from at least one part of each set alone, less those that luck finds."""
        known = self._known()
        return self._counted(
            torch.stack([self.found[:, list(one)].any(1) for one in self.sets], 1),
            torch.stack([known[:, list(one)].any(1) for one in self.sets], 1),
        )

    def excess(self) -> Float[Tensor, "instance set"]:
        """X(S) = F(S) - |union over l in S of recovered(l)|; 0 for a part alone."""
        return self.count() - self.union()

    def unknown(self) -> Float[Tensor, "instance set"]:
        """Share of the features that are not known."""
        return (~self._known()).float().mean(-1)

    def best_part(self) -> Float[Tensor, " instance"]:
        """What the best single part recovers alone: what all of them do jointly, less this, is the gap."""
        parts = sum(len(one) == 1 for one in self.sets)
        return self.count()[:, :parts].max(1).values

    def _known(self) -> Bool[Tensor, "instance set feature"]:
        return ~self.share.isnan()

    def _counted(self, found: Tensor, known: Tensor) -> Tensor:
        """Hits less lucky ones. Where nothing is known all labels are alike: if s of C are found, the right one is
        among them s / C of the time, so that each fact with s wrong ones and not the right stands for s / (C - s)
        lucky hits. Without wrong answers, s = 0, there is no luck to speak of."""
        hit, wrong = found[..., 0], found[..., 1:].sum(-1)
        lucky = torch.where(hit, 0.0, wrong / (found.shape[-1] - wrong))
        hit, lucky = hit & known, torch.where(known, lucky, 0.0)
        return torch.where(known.any(-1), hit.sum(-1) - lucky.sum(-1), torch.nan)


class BySize(NamedTuple):
    """Means over the sets of each size: sizes ascending; F, what single parts find together, and their difference."""

    sizes: tuple[int, ...]
    joint: Float[Tensor, "instance size"]
    union: Float[Tensor, "instance size"]
    excess: Float[Tensor, "instance size"]


def subsets(parts: int, sizes: Sequence[int], number: int, seed: int = 0) -> list[tuple[int, ...]]:
    """`number` different random sets of each size out of 0 .. parts - 1, or all where there are fewer, each sorted.

    InputError for a size outside 1 .. parts.
    """
    check_whole("subsets", "parts", parts)
    check_whole("subsets", "number", number)
    drawn, found = np.random.default_rng(seed), []
    for size in sizes:
        check_interval("subsets", "size", size, 1, parts)
        own: dict[tuple[int, ...], None] = {}
        for _ in range(20 * number):
            own[tuple(sorted(int(i) for i in drawn.permutation(parts)[:size]))] = None
            if len(own) == number:
                break
        found += list(own)
    return found


def dealt(units: int, parts: int, seed: int = 0) -> list[list[int]]:
    """`units` units dealt at random to `parts` equal parts, for `decode`: a single layer as if it were several."""
    check_whole("dealt", "parts", parts)
    if units % parts or units < parts:
        raise InputError(f"dealt: expected a multiple of {parts} units, got {units}")
    return np.random.default_rng(seed).permutation(units).reshape(parts, -1).tolist()


def by_size(decoded: Decoded) -> BySize:
    """F, union and excess, averaged over the sets of each size."""
    counts = [decoded.count(), decoded.union(), decoded.excess()]
    sizes = tuple(sorted({len(one) for one in decoded.sets}))
    chosen = [[i for i, one in enumerate(decoded.sets) if len(one) == size] for size in sizes]
    return BySize(sizes, *(torch.stack([count[:, own].mean(1) for own in chosen], 1) for count in counts))


def gamma(curve: BySize) -> Float[Tensor, " instance"]:
    """d ln F / d ln k by least squares over the sizes k, the sizes of one part and more. A count below one feature is
    taken as one, so that nothing found in single parts does not make it infinite; NaN for a single size."""
    if len(curve.sizes) < 2:
        return torch.full((len(curve.joint),), torch.nan)
    x = torch.tensor(curve.sizes, dtype=torch.float64).log()
    x = x - x.mean()
    return (curve.joint.double().clamp(min=1).log() @ x / x.square().sum()).float()


# ---------------------------------------------------------------------------------------------------- layer by layer


def longest_run(on: Bool[Tensor, "*stack layer feature"]) -> Int[Tensor, "*stack feature"]:
    """In how many consecutive layers at most each feature is on."""
    run = best = torch.zeros_like(on[..., 0, :], dtype=torch.int64)
    for layer in range(on.shape[-2]):
        run = torch.where(on[..., layer, :], run + 1, 0)
        best = torch.maximum(best, run)
    return best


class Lifetime(NamedTuple):
    """In how many layers features are on, averaged over those that are on in some: `run`, in a row at most; `layers`,
    in all; NaN where none is. `held`: the share of features that are."""

    run: float
    layers: float
    held: float


def lifetime(on: Bool[Tensor, "layer feature"]) -> Lifetime:
    """In how many layers the features of one network are on."""
    held = on.any(0)
    runs, layers = longest_run(on).float()[held].mean(), on.sum(0).float()[held].mean()
    return Lifetime(float(runs), float(layers), float(held.float().mean()))


def shuffled_lifetime(on: Bool[Tensor, "layer feature"], times: int = 8) -> Lifetime:
    """The mean of `lifetime` over `times` draws in which each layer has as many features on, but any; all NaN where
    there are none."""
    check_whole("shuffled_lifetime", "times", times)
    if not on.any():
        return Lifetime(*[np.nan] * 3)
    draws = torch.rand(times, *on.shape, generator=torch.Generator().manual_seed(0)).argsort(-1)
    return Lifetime(*np.nanmean([lifetime(on.gather(-1, draw)) for draw in draws], axis=0).tolist())


class Participation(NamedTuple):
    """Participation ratio averaged over each instance's features, and that of the shuffled null; NaN without features.

    `features` is how many the mean is over, NaN where nothing is known of any; `unknown` the share of those of which
    nothing is."""

    ratio: Float[Tensor, " instance"]
    null: Float[Tensor, " instance"]
    features: Float[Tensor, " instance"]
    unknown: Float[Tensor, " instance"]


def participation_ratio(a: Float[Tensor, "*stack layer feature"]) -> Float[Tensor, "*stack feature"]:
    """PR_i = (sum_l a_il)^2 / sum_l a_il^2 with a clipped at 0: 1 where one layer does everything, L where all do the
    same; NaN where none does anything."""
    a = a.clamp(min=0)
    squares = a.square().sum(-2)
    return a.sum(-2).square() / torch.where(squares > 0, squares, torch.nan)


def shuffled(a: Float[Tensor, "layer feature"], seed: int = 0) -> Float[Tensor, "layer feature"]:
    """Each layer's values dealt to other features, independently by layer: features without ties between layers."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(a.shape, generator=generator).argsort(-1)
    return a.gather(-1, order)


def participation(
    a: Float[Tensor, "instance layer feature"], *, least: float = 0.1, shuffles: int = 8
) -> Participation:
    """`participation_ratio` averaged over the features whose clipped a_il sum to more than `least`, and over `shuffles`
    of those features' values (`shuffled`). Below the null, layers divide features among them; above, they share.
    Features with a NaN are left out."""
    check_interval("participation", "least", least, 0)
    check_whole("participation", "shuffles", shuffles)
    rows = []
    for own in a.clamp(min=0):
        lost = own.isnan().any(0).to(own.dtype).mean()
        own = own[:, own.sum(0) > least]  # NaN is not
        null = torch.stack([participation_ratio(shuffled(own, seed)) for seed in range(shuffles)])
        count = torch.where(lost < 1, float(own.shape[1]), torch.nan).to(lost)
        rows.append(torch.stack([participation_ratio(own).mean(), null.nanmean(), count, lost]))
    return Participation(*torch.stack(rows, 1))
