"""How certain what samples show is: an `Estimate` with its error, and whether enough was seen to know anything.

What was never seen to vary agrees with any output. So a score counts as known only if its target was seen away from its
usual value, the median, in SEEN samples; what is unknown is NaN, never success.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["BATCH", "GROUPS", "SEEN", "Estimate", "Evidence", "away", "enough", "over_groups", "positive_sum", "usual"]

BATCH = 1024
GROUPS = 16  # sampling errors come from the spread of this many independent groups of batches
FEWEST = 8 * BATCH * 2  # held-out samples
# fewest samples with something to see: one for each of the GROUPS whose spread is the error, and a mean over fewer is
# uncertain by a quarter of itself
SEEN = 16


class Estimate(NamedTuple):
    """A measured value and its standard error from sampling held-out data; first axis instance."""

    value: Tensor
    error: Tensor


def enough(evidence: Tensor, samples: Tensor | int) -> Bool[Tensor, "*stack"]:
    """Whether SEEN of the samples show something; where there are fewer than FEWEST, as large a share of them, and one
    at least: who asks for a quick look gets one."""
    return evidence >= (torch.as_tensor(samples) * (SEEN / FEWEST)).clamp(1, SEEN)


def usual(values: Float[Tensor, "instance batch *rest"]) -> Float[Tensor, "instance 1 *rest"]:
    """The median: the one value that is taken more often than not, where there is one; else most samples differ."""
    return _numbers(values).median(1, keepdim=True).values


def away(
    values: Float[Tensor, "instance batch *rest"], rest: Float[Tensor, "instance 1 *rest"]
) -> Bool[Tensor, "instance batch *rest"]:
    """Which values are not the usual one."""
    return _numbers(values) != rest


class Evidence:
    """In how many samples, batch after batch, values were away from their usual one, which the first batch tells:
    `count` of each value, `shown` of any."""

    def __init__(self) -> None:
        self.usual, self.count, self.shown, self.samples = None, 0, 0, 0

    def add(self, values: Float[Tensor, "instance batch *rest"]) -> None:
        self.usual = usual(values) if self.usual is None else self.usual
        differs = away(values, self.usual)
        self.count = self.count + differs.sum(1)
        self.shown = self.shown + differs.flatten(2).any(-1).sum(1)
        self.samples += values.shape[1]

    def known(self) -> Bool[Tensor, "*instance_and_rest"]:
        """Where that is enough."""
        return enough(self.count, self.samples)


def _numbers(values: Tensor) -> Tensor:
    return values.to(torch.uint8) if values.dtype == torch.bool else values  # there is no median of truths


def over_groups(values: Float[Tensor, "group instance ..."]) -> Estimate:
    """Mean over groups and its standard error, the same bits however many instances are measured together.

    In float64: torch adds in an order that depends on how many sums it forms.
    """
    wide = values.double()
    return Estimate(*(one.to(values.dtype) for one in (wide.mean(0), wide.std(0) / GROUPS**0.5)))


def positive_sum(
    shares: Float[Tensor, "group instance score"], known: Bool[Tensor, "instance score"] | None = None
) -> Estimate:
    """sum_i max(0, R^2_i), (instance,), from independent groups of samples, without the luck of the draw.

    A score that is ignored measures above 0 as often as below. Adding what lies above 0 adds the upper half of that
    noise: 1.7% of a feature for each ignored one at a thousand active samples, which is 34 features at 2,000. So the
    scores that count are chosen on every other group and summed on the rest, both ways (sample splitting; Cox 1975,
    Biometrika 62:441). Scores whose sign is clear are unbiased, and in expectation the sum never exceeds the true one
    but for being set to 0 where it falls below. The standard error keeps the two choices fixed.

    Scores that are not `known` (None: all are) are left out, and where none is the sum is NaN; so it is where one that
    is known is NaN, as in an instance that diverged.
    """
    if known is not None:
        shares = torch.where(known, shares, 0.0)
    even, odd = (half.double().mean(0) > 0 for half in (shares[::2], shares[1::2]))
    counted = torch.stack([odd, even]).repeat(len(shares) // 2, 1, 1).to(shares.dtype)
    value, error = over_groups((shares * counted).sum(-1))
    value = value.clamp(min=0)  # NaN stays NaN
    if known is None:
        return Estimate(value, error)
    return Estimate(*(torch.where(known.any(-1), one, torch.nan) for one in (value, error)))
