"""How well outputs rank what they should tell apart: the area under the ROC curve of 0-or-1 targets.

AUC_k = P(output_k is larger where target k is 1 than where it is 0), ties counting half (Mann and Whitney 1947; Hanley
and McNeil 1982). It asks for an order, not for values, so it counts more than R^2 does: never compare the two. An
AND is also ranked by a linear readout, x_i + x_j, so a network that counts must be held against one without neurons.

From one or two samples of a class an AUC of 1 is luck: fewer than SEEN of either leave it unknown, NaN and not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from toysup.checks import InputError, check_interval
from toysup.ensemble import Trained, one_thread
from toysup.measure.held_out import BATCH, SEEN, Estimate
from toysup.tasks import Regression

__all__ = ["Ranking", "auc", "rank", "separated"]

ONES = 200.0  # wanted of each output on average: AUC's standard error is then .02 for chance, .01 and less above .9
FEWEST, MOST = 8 * BATCH, 256 * BATCH


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


def _samples(trained: Trained) -> Tensor:
    """Held-out samples for each instance, (instance,): its targets are on ONES times on average, MOST allowing."""

    def rate(setting, constants):
        mean = setting.task.target_moments(setting.features, constants)[0]
        return mean.expand(setting.task.n_outputs(setting.features)).mean()

    wanted = (ONES / trained.per_instance(rate).clamp(min=1e-9)).clamp(FEWEST, MOST)
    return (wanted / BATCH).ceil().long() * BATCH


def auc(trained: Trained) -> Estimate:
    """AUC of each output on held-out draws, (instance, out), with its standard error; NaN where either class has fewer
    than SEEN members (`unknown(auc)` is the share of those).

    Raises:
        InputError: the task is no regression, or its targets are not 0 or 1 (features must be boolean for AND).
    """
    if "auc" not in trained.kept:
        task = trained.setting.task
        if not isinstance(task, Regression):
            raise InputError(f"auc: expected a regression task with targets 0 or 1, got {type(task).__name__}")
        with torch.no_grad(), one_thread():
            found = [_one(trained.take([i]), int(count)) for i, count in enumerate(_samples(trained))]
        trained.kept["auc"] = Estimate(*(torch.stack(part) for part in zip(*found, strict=True)))
    return trained.kept["auc"]


def _one(trained: Trained, samples: int) -> Ranking:
    """The ranking of a single instance's outputs."""
    scores, on = [], []
    for number in range(samples // BATCH):
        x, target = trained.batch(number, BATCH)
        if not ((target == 0) | (target == 1)).all():
            value = target[(target != 0) & (target != 1)][0]
            raise InputError(f"auc: expected targets 0 or 1 (boolean features), got {value:g}")
        scores.append(trained.forward(x)[0])
        on.append(target[0] == 1)
    on = torch.cat(on).mT.contiguous()
    found, ones = rank(torch.cat(scores).mT.contiguous(), on), on.sum(-1)
    known = torch.minimum(ones, samples - ones) >= SEEN
    return Ranking(*(torch.where(known, one, torch.nan) for one in found))


def separated(threshold: float) -> Callable[[Trained], Tensor]:
    """A measure: how many outputs have AUC > threshold, (instance,); its column is `separated_95` for 0.95.

    `threshold` in [0.5, 1). What is not known is not counted, and where nothing is there is no count, but NaN.
    """
    check_interval("separated", "threshold", threshold, 0.5, 1, open_high=True)

    def count(trained: Trained) -> Tensor:
        value = auc(trained).value
        return torch.where(value.isnan().all(-1), torch.nan, (value > threshold).sum(-1).float())

    count.__name__ = f"separated_{100 * threshold:g}"
    count.__doc__ = f"Outputs with AUC > {threshold}, (instance,)."
    return count
