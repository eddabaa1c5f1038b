"""How well outputs rank what they should tell apart: the area under the ROC curve of 0-or-1 targets.

AUC_k = P(output_k is larger where target k is 1 than where it is 0), ties counting half (Mann and Whitney 1947; Hanley
and McNeil 1982). It asks for an order, not for values, so it counts more than R^2 does: never compare the two. An
AND is also ranked by a linear readout, x_i + x_j, so a network that counts must be held against one without neurons.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from toysup.checks import InputError, check_interval
from toysup.ensemble import Trained, one_thread
from toysup.measure.held_out import BATCH, Estimate
from toysup.tasks import Regression

__all__ = ["Ranking", "auc", "rank", "separated"]

ONES = 400.0  # wanted of each output on average: AUC's standard error is then at most 1 / sqrt(12 * 400) = .014
FEWEST, MOST = 8 * BATCH, 256 * BATCH


class Ranking(NamedTuple):
    """`auc` of each output and its standard error, NaN where a class is missing or, the error, has one member."""

    auc: Float[Tensor, " out"]
    error: Float[Tensor, " out"]


def rank(scores: Float[Tensor, "out sample"], on: Bool[Tensor, "out sample"]) -> Ranking:
    """AUC of each row of scores, with the standard error of DeLong, DeLong & Clarke-Pearson 1988 (Biometrics 44:837).

    A sample's placement is the share of the other class on its right side; AUC is the mean placement of either class,
    and its variance the sum over classes of the variance of placements / members.
    """
    order = scores.argsort(-1)
    sorted_scores, one = scores.gather(-1, order), on.gather(-1, order).double()
    new = torch.ones_like(on)
    new[:, 1:] = sorted_scores[:, 1:] != sorted_scores[:, :-1]
    place = torch.arange(scores.shape[-1]).expand_as(order)
    first = torch.where(new, place, 0).cummax(-1).values  # of each run of ties
    ends = torch.ones_like(new)
    ends[:, :-1] = new[:, 1:]
    last = torch.where(ends, place, scores.shape[-1]).flip(-1).cummin(-1).values.flip(-1)

    def below(members: Tensor) -> Tensor:
        """Members of a class with a lower score, ties counting half, at each place."""
        upto = members.cumsum(-1)
        return (upto.gather(-1, last) + upto.gather(-1, first) - members.gather(-1, first)) / 2

    zero, ones = 1 - one, one.sum(-1)
    zeros = zero.sum(-1)
    of_ones, of_zeros = below(zero) / zeros[:, None], 1 - below(one) / ones[:, None]  # placements

    def moments(placements: Tensor, members: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.where(members > 0, placements, 0.0).sum(-1) / count
        deviation = torch.where(members > 0, placements - mean[:, None], 0.0)
        return mean, deviation.square().sum(-1) / (count - 1) / count

    value, spread_of_ones = moments(of_ones, one, ones)
    spread_of_zeros = moments(of_zeros, zero, zeros)[1]
    return Ranking(value.float(), (spread_of_ones + spread_of_zeros).sqrt().float())


def _samples(trained: Trained) -> Tensor:
    """Held-out samples for each instance, (instance,): its targets are on ONES times on average."""

    def rate(setting, constants):
        mean = setting.task.target_moments(setting.features, constants)[0]
        return mean.expand(setting.task.n_outputs(setting.features)).mean()

    wanted = (ONES / trained.per_instance(rate).clamp(min=1e-9)).clamp(FEWEST, MOST)
    return (wanted / BATCH).ceil().long() * BATCH


def auc(trained: Trained) -> Estimate:
    """AUC of each output on held-out draws, (instance, out), with its standard error; NaN where a class never occurs.

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
    return rank(torch.cat(scores).mT.contiguous(), torch.cat(on).mT.contiguous())


def separated(threshold: float) -> Callable[[Trained], Tensor]:
    """A measure: how many outputs have AUC > threshold, (instance,); its column is `separated_95` for 0.95.

    `threshold` in [0.5, 1). What never occurs is not counted.
    """
    check_interval("separated", "threshold", threshold, 0.5, 1, open_high=True)

    def count(trained: Trained) -> Tensor:
        return (auc(trained).value > threshold).sum(-1).float()

    count.__name__ = f"separated_{100 * threshold:g}"
    count.__doc__ = f"Outputs with AUC > {threshold}, (instance,)."
    return count
