"""How well scores rank what they should tell apart: the area under the ROC curve of 0-or-1 targets.

AUC_k = P(score_k is larger where target k is 1 than where it is 0), ties counting half (Mann and Whitney 1947; Hanley
and McNeil 1982). It asks for an order, not for values, so it counts more than R^2 does: never compare the two. An
AND is also ranked by a linear readout, x_i + x_j, so a network that counts must be held against one without neurons.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Ranking", "rank"]


class Ranking(NamedTuple):
    """`auc` of each output and its standard error, NaN where a class is missing or, the error, has one member; and
    where a score is NaN."""

    auc: Float[Tensor, " out"]
    error: Float[Tensor, " out"]


def rank(scores: Float[Tensor, "out sample"], on: Bool[Tensor, "out sample"]) -> Ranking:
    """AUC of each row of scores, with the standard error of DeLong, DeLong & Clarke-Pearson 1988 (Biometrics 44:837).

    A sample's placement is the share of the other class on its right side; AUC is the mean placement of either class,
    and its variance the sum over classes of the variance of placements / members.
    """
    ones = on.sum(-1, keepdim=True)
    zeros = on.shape[-1] - ones
    most = max(1, int(ones.max()))
    # ones are few: sort them alone, filled up with infinities, and seek every score among them
    high = torch.where(on, scores, torch.inf).topk(most, largest=False).values.contiguous()
    real = torch.arange(most) < ones
    left, right = (torch.searchsorted(high, scores, right=right).clamp(max=ones) for right in (False, True))
    of_zeros = 1 - (left + right).double() / 2 / ones  # the share of ones above, ties counting half
    first = torch.searchsorted(high, high)  # of each run of ties
    below = torch.zeros_like(high, dtype=torch.float64)
    for place in (left, right):  # of a one with `first` ones below it: zeros at or below it, and zeros below it
        count = torch.zeros(len(on), most + 1, dtype=torch.float64).scatter_add(-1, place, (~on).double())
        below += count.cumsum(-1).gather(-1, first) / 2
    of_ones = below / zeros

    def moments(placements: Tensor, members: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.where(members, placements, 0.0).sum(-1, keepdim=True) / count
        deviation = torch.where(members, placements - mean, 0.0)
        return mean[:, 0], deviation.square().sum(-1) / (count[:, 0] - 1) / count[:, 0]

    spread_of_ones = moments(of_ones, real, ones)[1]
    value, spread_of_zeros = moments(of_zeros, ~on, zeros)
    error = (spread_of_ones + spread_of_zeros).sqrt()
    lost = scores.isnan().any(-1)
    return Ranking(*(one.float().masked_fill(lost, torch.nan) for one in (value, error)))
