"""In how many layers features live: what each layer holds beyond what it gives away before training, as columns.

Of circuits, features are the gates that no affine map of the input predicts, read by a ridge probe for each; of facts
their labels, read by one readout fitted on other facts. That one can't memorise, and finds what is written in one place
for all facts, so that for facts lifetimes are lower bounds.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from toysup.checks import InputError
from toysup.ensemble import Trained
from toysup.measure.layers import Of, decodable_by_layer, gates, label_chances_by_layer
from toysup.sharing import lifetime, shuffled_lifetime
from toysup.tasks import Circuit, Memory

__all__ = ["PLACES", "held_before_training", "known_by_layer", "lifetimes"]

PLACES: tuple[Of, ...] = ("stream", "neurons")
RULES = ("", "_strict", "_uncorrected", "_shuffled")


def known_by_layer(trained: Trained, of: Of = "stream") -> Float[Tensor, "instance layer feature"]:
    """How well each layer knows each feature: 0 at chance, 1 if all is known; below 0 by bad luck. NaN where there is
    no such feature: gates that are affine in the input, facts that never occur.

    For gates the held-out R^2 of `decodable_by_layer`; for facts of n labels (p - 1/n) / (1 - 1/n), with p the
    probability of the right one (`label_chances_by_layer`). The stream's layer 0 is the embedded input.

    InputError for other tasks than Circuit and Memory.
    """
    task = trained.setting.task
    if isinstance(task, Memory):
        return (label_chances_by_layer(trained, of=of) - 1 / task.n_labels) / (1 - 1 / task.n_labels)
    if not isinstance(task, Circuit):
        raise InputError(f"known_by_layer: the task must be Circuit or Memory, got {type(task).__name__}")
    found = decodable_by_layer(trained, of=of, targets=gates, batches=8).value
    pure = trained.per_instance(lambda setting, constants: setting.task.pure(constants).flatten()).unsqueeze(1)
    return torch.where(pure, found, torch.nan)


def lifetimes(trained: Trained) -> dict[str, Tensor]:
    """Columns of the stream (`stream_...`) and of the neurons (`neurons_...`), which need a snapshot at step 0.

    A layer holds a feature that it has learned more than half of: (known - before) / (1 - before), where before
    training a random layer may know gates, but no label. `sharing.lifetime` of that is `tau`, `layers` and `held`; with
    _strict it has to have learned 3/4, with _uncorrected only to know half, with _shuffled each layer holds as many,
    but any. What comes in, the stream's layer 0, is in none of these. `at_l`: the share of features that layer l holds,
    blocks from 1; `stream_at_0`: the embedded input.
    """
    told: dict[str, Tensor] = {}
    for place in PLACES:
        found, first = known_by_layer(trained, place), int(place == "neurons")
        known = isinstance(trained.setting.task, Memory)  # no layer gives labels away
        before = torch.zeros_like(found) if known else known_by_layer(trained.at(0), place).clamp(min=0)
        rows = []
        for own, start in zip(found, before, strict=True):
            real = ~own[0].isnan()
            own, start = own[:, real], start[:, real]
            learned = (own - start) / (1 - start).clamp(min=1e-6)
            main, done = learned > 0.5, slice(1 - first, None)  # what was computed, not what came in
            lives = [lifetime(on[done]) for on in (main, learned > 0.75, own > 0.5)] + [shuffled_lifetime(main[done])]
            rows.append([number for one in lives for number in one] + main.float().mean(1).tolist())
        names = [f"{what}{rule}" for rule in RULES for what in ("tau", "layers", "held")]
        told |= _columns(place, rows, names + [f"at_{first + layer}" for layer in range(found.shape[1])])
    return told


def held_before_training(trained: Trained) -> dict[str, Tensor]:
    """The share of features that a layer knows more than half of at step 0, as columns `stream_before_l` and
    `neurons_before_l`, numbered as in `lifetimes`."""
    told: dict[str, Tensor] = {}
    for place in PLACES:
        found, first = known_by_layer(trained.at(0), place), int(place == "neurons")
        share = torch.where(found.isnan(), torch.nan, (found > 0.5).float()).nanmean(2)
        told |= _columns(place, share.tolist(), [f"before_{first + layer}" for layer in range(share.shape[1])])
    return told


def _columns(place: str, rows: list[list[float]], names: list[str]) -> dict[str, Tensor]:
    return {f"{place}_{name}": column for name, column in zip(names, torch.tensor(rows).T, strict=True)}
