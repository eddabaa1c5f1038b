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
from toysup.evidence import Estimate, enough, over_groups, positive_sum
from toysup.measure.held_out import held_out

__all__ = [
    "accuracy_recovered",
    "features_offered",
    "held_out_loss",
    "r_squared",
    "recovered",
    "recovered_at",
    "trivial_losses",
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


def trivial_losses(trained: Trained) -> dict[str, torch.Tensor]:
    """What predictors that learned nothing lose, (instance,) each, in the unit of `held_out_loss`: a figure's nulls.

    Columns: `zero_loss`, `constant_loss` (the best output that knows no input) and `linear_loss` (the best affine map
    through as many dimensions as the model is wide), as far as `Task.trivial_losses` knows them in closed form.

    Raises:
        InputError: the task knows none.
    """
    arguments, task = trained.setting.model.arguments, trained.setting.task
    width = arguments.get("width", getattr(arguments.get("shape"), "width", None))
    known = trained.per_instance(lambda setting, own: setting.task.trivial_losses(setting.features, own, width))
    if not known:
        raise InputError(f"trivial_losses: {type(task).__name__} knows none in closed form here")
    return {f"{name}_loss": value for name, value in known.items()}


def r_squared(trained: Trained) -> Estimate:
    """R^2 of each score (feature, pair or label group), (instance, score), at most 1; NaN where it is not known."""
    return over_groups(_shares(trained))


def features_offered(trained: Trained) -> torch.Tensor:
    """How many features ever occur, (instance,): what `recovered` can reach at most, and the load's numerator."""

    def count(setting, _):
        return (setting.features.activity > 0).expand(setting.features.n_features).sum().to(torch.float32)

    return trained.per_instance(count)


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
