"""Errors on data no instance was trained on, each with its sampling error.

Held-out draws have a stream of their own. Sparser data is evaluated on more samples: enough that each score (a feature,
or a group of them with a label) sees about a thousand active ones, but no more than a quarter of the training samples
(16,384 at least), so that looking never costs more than learning. Each instance's number of samples depends on that
instance alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, vmap

from toysup.ensemble import Trained, bound, one_thread
from toysup.setting import Setting

__all__ = ["Estimate", "HeldOut", "held_out"]

BATCH = 1024
GROUPS = 16  # sampling errors come from the spread of this many independent groups of batches
FEWEST, MOST = 8 * BATCH * 2, 128 * BATCH
ACTIVE_SAMPLES = 1000.0


class Estimate(NamedTuple):
    """A measured value and its standard error from sampling held-out data; first axis instance."""

    value: Tensor
    error: Tensor


@dataclass(frozen=True)
class HeldOut:
    """Held-out sums by group of batches: everything the loss and recovery measures need, gathered in one pass.

    `errors` and `hits` (label tasks only) are means over the samples of each group; `loss` likewise; `baseline` is the
    expected error of the best constant. A diverged instance has NaN or large errors, nothing is hidden.
    """

    errors: Float[Tensor, "group instance score"]
    hits: Float[Tensor, "group instance score"] | None
    loss: Float[Tensor, "group instance"]
    baseline: Float[Tensor, "instance score"]
    samples: Int[Tensor, " instance"]


def samples_wanted(trained: Trained) -> Int[Tensor, " instance"]:
    """Held-out samples for each instance: a multiple of GROUPS * BATCH that shows a mean score active ~1000 times."""

    def density_of(setting: Setting, constants: dict[str, Tensor]) -> Tensor:
        scores = setting.task.baseline(setting.features, constants).numel()
        return setting.features.expected_active / scores

    density = trained.per_instance(density_of).reshape(len(trained), -1)[:, 0].clamp(max=1)
    most = min(MOST, max(FEWEST, trained.setting.steps * trained.setting.batch // 4))
    wanted = (ACTIVE_SAMPLES / density).clamp(FEWEST, most)
    return (wanted / (GROUPS * BATCH)).ceil().long() * GROUPS * BATCH


def held_out(trained: Trained) -> HeldOut:
    """Evaluate every instance on its held-out stream, once: the answer is kept with `trained` for the next measure."""
    if "held_out" not in trained.kept:
        with torch.no_grad(), one_thread():
            trained.kept["held_out"] = _evaluate(trained)
    return trained.kept["held_out"]


def _evaluate(trained: Trained) -> HeldOut:
    task = trained.setting.task
    samples = samples_wanted(trained)
    baseline = trained.per_instance(lambda setting, constants: setting.task.baseline(setting.features, constants))

    def score(values, output, target):
        here = bound(trained.setting, values).task
        errors = here.errors(output, target).mean(0)
        hits = here.hits(output, target).mean(0) if hasattr(here, "hits") else errors.new_zeros(0)
        return errors, hits, here.loss(output, target)

    shape = (GROUPS, len(trained))
    errors, loss = torch.zeros(*shape, baseline.shape[-1]), torch.zeros(shape)
    hits = torch.zeros(*shape, baseline.shape[-1]) if hasattr(task, "hits") else None
    number, remaining = 0, torch.arange(len(trained))
    while len(remaining):
        part = trained if len(remaining) == len(trained) else trained.take(remaining)
        x, target = part.batch(number, BATCH)
        batch_errors, batch_hits, batch_loss = vmap(score)(part.values, part.forward(x), target)
        group = number % GROUPS
        errors[group, remaining] += batch_errors
        loss[group, remaining] += batch_loss
        if hits is not None:
            hits[group, remaining] += batch_hits
        number += 1
        remaining = remaining[samples[remaining] > number * BATCH]
    batches = (samples / (GROUPS * BATCH)).view(1, -1)
    hits = hits / batches.unsqueeze(-1) if hits is not None else None
    return HeldOut(errors / batches.unsqueeze(-1), hits, loss / batches, baseline, samples)


def over_groups(values: Float[Tensor, "group instance ..."]) -> Estimate:
    """Mean over groups and its standard error."""
    return Estimate(values.mean(0), values.std(0) / GROUPS**0.5)
