"""How well outputs rank what they should tell apart (`toysup.ranking`).

From one or two samples of a class an AUC of 1 is luck: fewer than SEEN of either leave it unknown, NaN and not counted.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from toysup.checks import InputError, check_interval
from toysup.ensemble import Trained, one_thread
from toysup.evidence import BATCH, SEEN, Estimate
from toysup.ranking import Ranking, rank
from toysup.tasks import Regression

__all__ = ["auc", "separated"]

ONES = 200.0  # wanted of each output on average: AUC's standard error is then .02 for chance, .01 and less above .9
FEWEST, MOST = 8 * BATCH, 256 * BATCH


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
    return trained.once(_auc)


def _auc(trained: Trained) -> Estimate:
    task = trained.setting.task
    if not isinstance(task, Regression):
        raise InputError(f"auc: expected a regression task with targets 0 or 1, got {type(task).__name__}")
    with torch.no_grad(), one_thread():
        found = [_one(trained.take([i]), int(count)) for i, count in enumerate(_samples(trained))]
    return Estimate(*(torch.stack(part) for part in zip(*found, strict=True)))


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
