"""How many functions of its features a network computes, beyond what is free.

Two counts, never to be compared: by squared error, in units of what any affine function of x leaves; and by rank, which
asks only that an output is larger where its target is on, so that functions may share a neuron. Known lines are those
of |x|, x + relu(x) and AND; outputs without importance are not asked for and do not count.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from toysup.checks import InputError, check_interval
from toysup.ensemble import Trained, one_thread
from toysup.ranking import rank
from toysup.tasks import AbsoluteValue, And, XPlusRelu

__all__ = ["computed", "power_losses", "ranked"]

BATCH, ACTIVE, RANKED = 1024, 300, 16384  # samples; each feature on as often, on average; samples that are ranked


def best_line(trained: Trained, x: Float[Tensor, "instance batch feature"]) -> Float[Tensor, "instance batch out"]:
    """The affine function of x with the least squared error; of signed features for |x| and x + relu(x)."""
    task, p = trained.setting.task, trained.setting.features.density
    if isinstance(task, And):
        pair = (trained.constants[name][:, None].expand(-1, x.shape[1], -1) for name in ("first", "second"))
        return p * sum(x.gather(-1, index) for index in pair) - p * p
    if not isinstance(task, AbsoluteValue | XPlusRelu):
        raise InputError(f"computed: expected |x|, x + relu(x) or AND, got {type(task).__name__}")
    return 1.5 * x + p / 4 if isinstance(task, XPlusRelu) else torch.full_like(x, p / 2)


def _errors(trained: Trained) -> tuple[Tensor, ...]:
    """Held-out means of error^2 and error^4 of the network and of error^2 of the line, (instance, out)."""
    setting, found = trained.setting, [torch.zeros(1)] * 3
    rate = setting.features.density ** (2 if isinstance(setting.task, And) else 1)
    batches = round(np.clip(ACTIVE / rate / BATCH, 4, max(4, setting.steps * setting.batch / 4096)))
    with torch.no_grad(), one_thread():
        for number in range(batches):
            x, target = trained.batch(number, BATCH)
            own = (trained.forward(x) - target).square()
            parts = own, own.square(), (best_line(trained, x) - target).square()
            found = [total + part.mean(1) / batches for total, part in zip(found, parts, strict=True)]
    return tuple(found)


def _wanted(trained: Trained) -> Tensor:
    """Which outputs the loss counts, (instance, out)."""
    outputs = trained.setting.task.n_outputs(trained.setting.features)
    return trained.per_instance(lambda setting, _: torch.as_tensor(setting.task.importance).expand(outputs)) > 0


def power_losses(trained: Trained) -> dict[str, Tensor]:
    """Means over outputs of the error's squares and 4th powers, whichever was trained on, (instance,) each."""
    squares, fourth, _ = trained.once(_errors)
    return {"squares": squares.mean(-1), "fourth_powers": fourth.mean(-1)}


def computed(trained: Trained) -> Float[Tensor, " instance"]:
    """Functions computed: sum over outputs of max(0, 1 - E error^2 / E error^2 of the best line)."""
    network, _, best = trained.once(_errors)
    return (torch.where(best > 0, 1 - network / best, 0.0).clamp(min=0) * _wanted(trained)).sum(-1)


def ranked(threshold: float) -> Callable[[Trained], Tensor]:
    """A measure: how many outputs are larger where the target is above 0 than where it is not, with AUC > threshold,
    (instance,); its column is `ranked`. `threshold` in [0.5, 1)."""
    check_interval("ranked", "threshold", threshold, 0.5, 1, open_high=True)

    def ranked(trained: Trained) -> Tensor:
        counts = []
        with torch.no_grad(), one_thread():
            for one, asked_for in enumerate(_wanted(trained)):
                single = trained.take([one])
                x, target = single.batch(0, RANKED)
                found = rank(single.forward(x)[0].mT.contiguous(), (target[0] > 0).mT.contiguous())
                counts.append(((found.auc > threshold) & asked_for).sum().float())
        return torch.stack(counts)

    return ranked
