"""How much a trained instance recovered, from its own output on held-out data.

R^2_i = 1 - E error_i / baseline_i, the baseline being the best constant. The primary count is F_eff =
sum_i max(0, R^2_i); for labels the same formula reads bits: F (1 - CE / ln C).
Never mix R^2 counts with accuracy counts in one comparison.

A score of which too little was seen (`HeldOut.known`) is NaN and in no count; where no score is known, neither is the
count. `unseen` is the share of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float

from toysup.checks import InputError
from toysup.ensemble import Trained
from toysup.measure.held_out import Estimate, enough, held_out, over_groups

__all__ = [
    "accuracy_recovered",
    "features_offered",
    "held_out_loss",
    "positive_sum",
    "r_squared",
    "recovered",
    "recovered_at",
    "untrained",
]


def _weight(trained: Trained) -> torch.Tensor:
    """Features that one score stands for, (instance,)."""
    return trained.per_instance(lambda setting, _: setting.task.features_per_score(setting.features))


def _shares(trained: Trained) -> torch.Tensor:
    """1 - error / baseline, (group, instance, score); NaN for a score that is not known."""
    seen = held_out(trained)
    return torch.where(seen.known, 1 - seen.errors / seen.baseline, torch.nan)


def held_out_loss(trained: Trained) -> Estimate:
    """Held-out loss of each instance, (instance,), in the unit of its task's loss.

    The error is NaN where so few samples showed anything that their spread says nothing.
    """
    seen = held_out(trained)
    value, error = over_groups(seen.loss)
    return Estimate(value, torch.where(enough(seen.shown, seen.samples), error, torch.nan))


def r_squared(trained: Trained) -> Estimate:
    """R^2 of each score (feature, pair or label group), (instance, score), at most 1; NaN where it is not known."""
    return over_groups(_shares(trained))


def features_offered(trained: Trained) -> torch.Tensor:
    """How many features ever occur, (instance,): what `recovered` can reach at most, and the load's numerator."""

    def count(setting, _):
        return (setting.features.activity > 0).expand(setting.features.n_features).sum().to(torch.float32)

    return trained.per_instance(count)


def positive_sum(
    shares: Float[torch.Tensor, "group instance score"], known: Bool[torch.Tensor, "instance score"] | None = None
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


def recovered(trained: Trained) -> Estimate:
    """F_eff = sum_i max(0, R^2_i), (instance,), in features; for labels, stored bits / log2 C, in facts."""
    value, error = positive_sum(_shares(trained), held_out(trained).known)
    weight = _weight(trained)
    return Estimate(weight * value, weight * error)


def untrained(trained: Trained) -> Estimate:
    """`recovered` before the first step, (instance,): the null. Needs snapshots=(0,)."""
    return recovered(trained.at(0))


def recovered_at(threshold: float) -> Callable[[Trained], torch.Tensor]:
    """A measure F(theta): how many features have R^2 > theta, (instance,); its column is `recovered_at_50` for 0.5."""

    def count(trained: Trained) -> torch.Tensor:
        known = held_out(trained).known
        return _weight(trained) * _counted(r_squared(trained).value, known, lambda share: share > threshold)

    count.__name__ = f"recovered_at_{100 * threshold:g}"
    count.__doc__ = f"Features with R^2 > {threshold}, (instance,), of those whose R^2 is known."
    return count


def _counted(
    values: Float[torch.Tensor, "instance score"],
    known: Bool[torch.Tensor, "instance score"],
    holds: Callable[[torch.Tensor], torch.Tensor],
) -> Float[torch.Tensor, " instance"]:
    """For how many of the known values something holds; NaN where none is known, or one of them is not a number."""
    count = (holds(values) & known).sum(-1).to(values.dtype)
    return torch.where(known.any(-1) & ~(known & values.isnan()).any(-1), count, torch.nan)


def accuracy_recovered(trained: Trained) -> Estimate:
    """F (accuracy - 1/C) / (1 - 1/C), (instance,): facts recovered, corrected for guessing. Label tasks only."""
    seen, task = held_out(trained), trained.setting.task
    if seen.hits is None:
        raise InputError(f"accuracy_recovered: needs a task with labels such as Memory, got {type(task).__name__}")
    chance = 1 / task.n_labels
    hits = torch.where(seen.errors.isnan(), torch.nan, seen.hits)  # the largest of outputs that are NaN is not a guess
    return over_groups(_weight(trained) * ((hits - chance) / (1 - chance)).clamp(min=0).sum(-1))
