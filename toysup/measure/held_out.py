"""Errors on data no instance was trained on, each with its sampling error.

Held-out draws have a stream of their own. Sparser data is evaluated on more samples: enough that the mean score (a
feature, or a group of them with a label) sees about a thousand active ones, but no more than a quarter of the training
samples (16,384 at least), so that looking never costs more than learning. Each instance's number of samples depends on
that instance alone.

That is not enough for every score: a feature can be so rare that it is hardly ever active. What was seen too seldom
(`toysup.evidence`) is NaN, is left out of counts, and `unseen` says how much of it there is.

Networks that a kernel is proved to know (`toysup.ensemble.held_out`) are evaluated by it, on the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, vmap
from torch.utils._pytree import tree_map

from toysup.ensemble import Trained, bound, one_thread
from toysup.ensemble import held_out as kernel
from toysup.evidence import BATCH, FEWEST, GROUPS, SEEN, Estimate, away, enough, usual
from toysup.setting import Setting

__all__ = ["HeldOut", "held_out", "samples_wanted", "unknown", "unseen"]

ACTIVE_SAMPLES = 1000.0
MOST = 128 * BATCH


@dataclass(frozen=True)
class HeldOut:
    """Held-out sums by group of batches: everything the loss and recovery measures need, gathered in one pass.

    `errors` and `hits` (label tasks only) are means over the samples of each group; `loss` likewise; `baseline` is the
    expected error of the best constant. A diverged instance has NaN or large errors, nothing is hidden. `evidence` is
    in how many samples a score's target was away from its usual value (of a score that adds up several parts, the part
    that was so least often), `shown` in how many samples any was; counting ends where all have SEEN.
    """

    errors: Float[Tensor, "group instance score"]
    hits: Float[Tensor, "group instance score"] | None
    loss: Float[Tensor, "group instance"]
    baseline: Float[Tensor, "instance score"]
    samples: Int[Tensor, " instance"]
    evidence: Int[Tensor, "instance score"]
    shown: Int[Tensor, " instance"]

    @property
    def known(self) -> Bool[Tensor, "instance score"]:
        """Whether there is a baseline, and evidence enough to hold against it."""
        return (self.baseline > 0) & enough(self.evidence, self.samples.unsqueeze(-1))


def samples_wanted(trained: Trained) -> Int[Tensor, " instance"]:
    """Held-out samples for each instance: a multiple of GROUPS * BATCH that shows the mean score active ~1000 times, as
    far as the limits allow; rarer ones are seen less often, and perhaps too little (`HeldOut.known`)."""

    def density_of(setting: Setting, constants: dict[str, Tensor]) -> Tensor:
        scores = setting.task.baseline(setting.features, constants).numel()
        return setting.features.expected_active / scores

    density = trained.per_instance(density_of).reshape(len(trained), -1)[:, 0].clamp(max=1)
    most = min(MOST, max(FEWEST, trained.setting.steps * trained.setting.batch // 4))
    wanted = (ACTIVE_SAMPLES / density).clamp(FEWEST, most)
    return (wanted / (GROUPS * BATCH)).ceil().long() * GROUPS * BATCH


def held_out(trained: Trained) -> HeldOut:
    """Evaluate every instance on its held-out stream, once: the answer is kept with `trained` for the next measure."""
    with torch.no_grad(), one_thread():
        return trained.once(_evaluate)


def _evaluate(trained: Trained) -> HeldOut:
    samples = samples_wanted(trained)
    baseline = trained.per_instance(lambda setting, constants: setting.task.baseline(setting.features, constants))
    if kernel.unfit(trained) is None and baseline.shape[1:] == (trained.setting.features.n_features,):
        found = kernel.sums(trained, samples // BATCH, BATCH, GROUPS, SEEN)
        return HeldOut(found.errors, None, found.loss, baseline, samples, found.evidence, found.shown)
    return _evaluated(trained, samples, baseline)


def _evaluated(
    trained: Trained, samples: Int[Tensor, " instance"], baseline: Float[Tensor, "instance score"]
) -> HeldOut:
    """The general path, for whatever no kernel knows."""
    with_labels = labelled(trained)

    def score(values, output, target):
        here = bound(trained.setting, values).task
        errors = here.errors(output, target).mean(0)
        hits = here.hits(output, target).mean(0) if with_labels else errors.new_zeros(0)
        return errors, hits, here.loss(output, target)

    def telling(values, x, output, target):
        here, scores = bound(trained.setting, values).task, baseline.shape[-1]
        parts = here.evidence(x, target)
        if isinstance(parts, Tensor) and parts.ndim in (2, 3) and parts.shape[:2] == (BATCH, scores):
            return parts
        return here.errors(tree_map(_constant, output), target)  # it differs where the target does

    def unsatisfied(instances: Tensor) -> Bool[Tensor, " instance"]:
        return (evidence[instances].flatten(1) < SEEN).any(-1) | (shown[instances] < SEEN)

    shape = (GROUPS, len(trained))
    errors, loss = torch.zeros(*shape, baseline.shape[-1]), torch.zeros(shape)
    hits = torch.zeros(*shape, baseline.shape[-1]) if with_labels else None
    evidence, shown, rest = torch.zeros(len(trained), 0), torch.zeros(len(trained), dtype=torch.long), None
    number, remaining = 0, torch.arange(len(trained))
    while len(remaining):
        part = trained if len(remaining) == len(trained) else trained.take(remaining)
        x, target = part.batch(number, BATCH)
        output = part.forward(x)
        batch_errors, batch_hits, batch_loss = vmap(score)(part.values, output, target)
        counting = torch.ones(len(remaining), dtype=torch.bool) if rest is None else unsatisfied(remaining)
        if hits is None and counting.any():
            parts = vmap(telling)(part.values, x, output, target)
            if rest is None:
                rest = usual(parts)
                evidence = torch.zeros(len(trained), *parts.shape[2:], dtype=torch.long)
            differs, who = away(parts, rest[remaining])[counting], remaining[counting]
            evidence[who] += differs.sum(1)
            shown[who] += differs.flatten(2).any(-1).sum(1)
        group = number % GROUPS
        errors[group, remaining] += batch_errors
        loss[group, remaining] += batch_loss
        if hits is not None:
            hits[group, remaining] += batch_hits
        number += 1
        remaining = remaining[samples[remaining] > number * BATCH]
    batches = (samples / (GROUPS * BATCH)).view(1, -1)
    if hits is None:
        evidence = evidence.flatten(2).amin(-1) if evidence.ndim > 2 else evidence
    else:  # every label says something
        evidence, shown = samples.unsqueeze(-1).expand(baseline.shape), samples
        hits = hits / batches.unsqueeze(-1)
    return HeldOut(errors / batches.unsqueeze(-1), hits, loss / batches, baseline, samples, evidence, shown)


def labelled(trained: Trained) -> bool:
    """Whether targets are labels, which outputs can hit."""
    first = trained.take([0])
    x, target = first.batch(0, 1)
    output, target = tree_map(lambda one: one[0], (first.forward(x), target))
    return trained.setting.task.hits(output, target) is not None


def _constant(output: Tensor) -> Tensor:
    """The same output for every sample, of no particular value."""
    if not output.is_floating_point() or output.ndim < 2:
        return torch.zeros_like(output)
    return torch.linspace(0.31, 0.73, output.shape[-1]).to(output).expand(output.shape)


def unseen(trained: Trained) -> Float[Tensor, " instance"]:
    """Share of the scores that vary of which held-out data showed too little to be known, (instance,); 0 is good.

    `r_squared` is NaN for those, and `recovered` and its like leave them out. NaN where no score ever varies.
    """
    seen = held_out(trained)
    varies = (seen.baseline > 0) | (seen.evidence > 0)
    return (varies & ~seen.known).sum(-1) / varies.sum(-1)


def unknown(measure: Callable[[Trained], Any]) -> Callable[[Trained], Any]:
    """A measure: the share of another one's values that are NaN, (instance,), as of a feature's AUC or F1.

    The column is `<measure>_unknown`, of a measure of several columns one for each.
    """

    def of(found: Tensor | Estimate) -> Tensor:
        value = found.value if isinstance(found, Estimate) else found
        return value.reshape(len(value), -1).isnan().float().mean(-1)

    def share(trained: Trained) -> Any:
        found = measure(trained)
        if isinstance(found, Mapping):
            return {f"{name}_unknown": of(one) for name, one in found.items()}
        return of(found)

    share.__name__ = f"{measure.__name__}_unknown"
    share.__doc__ = f"Share of the values of {measure.__name__} that are NaN, (instance,)."
    return share
