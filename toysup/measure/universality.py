"""What networks of whatever widths can be compared by (`toysup.similarity`): scores or directions in truth coordinates,
and activations on shared samples."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from toysup.checks import InputError, check_whole
from toysup.ensemble import Trained, one_thread
from toysup.evidence import BATCH
from toysup.measure.layers import Of, units_of
from toysup.tasks import Memory

__all__ = ["fact_bits", "shared_activations", "unit_responses"]


def fact_bits(trained: Trained) -> Float[Tensor, "instance fact"]:
    """1 - CE_i / ln C of each fact's label, one fact at a time: 1 if it is certain, 0 by guessing, negative if worse.

    Every fact is looked at once, so nothing is sampled. NaN for facts that never occur.

    Raises:
        InputError: the task is not Memory with one active fact.
    """
    setting = trained.setting
    if not isinstance(setting.task, Memory) or setting.features.n_active != 1:
        raise InputError(f"fact_bits: the task must be Memory of one fact at a time, got {setting.task}")
    n = setting.features.n_features
    facts = torch.arange(n).expand(len(trained), -1).unsqueeze(-1)
    labels = trained.constants["labels"].unsqueeze(-1)
    logs = trained.forward(facts).log_softmax(-1).gather(-1, labels).squeeze(-1)
    occurs = trained.per_instance(lambda setting, _: setting.features.activity.expand(n) > 0)
    return torch.where(occurs, 1 + logs / math.log(setting.task.n_labels), torch.nan)


def _units(trained: Trained, x: Tensor, of: Of, layer: int | None) -> Float[Tensor, "instance batch unit"]:
    """What the units of one layer, or of all of them side by side, are on given inputs."""
    units = units_of(trained, x, of)
    if layer is None:
        return units.flatten(2)
    if not -units.shape[2] <= layer < units.shape[2]:
        raise InputError(f"universality: layer must lie in 0 .. {units.shape[2] - 1} for {of}, got {layer}")
    return units[:, :, layer]


def shared_activations(
    trained: Trained,
    *,
    of: Of = "stream",
    layer: int | None = 0,
    inputs: Tensor | None = None,
    batches: int = 4,
    seed: int = 0,
) -> Float[Tensor, "instance sample unit"]:
    """Activations of every instance on the same inputs.

    Args:
        of: "neurons" (after their nonlinearity) or "stream"; layer: its number (0 of the stream is the embedded input,
            which is an autoencoder's code), or None for all of them side by side.
        inputs: (sample, input). By default batches * 1024 held-out draws with data seed `seed`: the same for two stacks
            only if their features have one law.
    """
    check_whole("shared_activations", "batches", batches)
    stack = dataclasses.replace(trained.stack, data_seed=np.full(len(trained), seed, dtype=np.int64))
    here = dataclasses.replace(trained, stack=stack, kept={})
    with torch.no_grad(), one_thread():
        if inputs is not None:
            return _units(trained, inputs.expand(len(trained), *inputs.shape), of, layer)
        return torch.cat([_units(trained, here.batch(k, BATCH)[0], of, layer) for k in range(batches)], 1)


def unit_responses(
    trained: Trained, *, of: Of = "neurons", layer: int | None = None
) -> Float[Tensor, "instance unit feature"]:
    """Units pulled back to truth coordinates: what each is when one feature alone is 1, less what it is when none is.

    Of facts one is always on, so there the mean over facts is taken off. `of` and `layer` as in `shared_activations`.
    """
    n, setting = trained.setting.features.n_features, trained.setting
    facts = isinstance(setting.task, Memory)
    if facts and setting.features.n_active != 1:
        raise InputError(f"unit_responses: Memory must be of one fact at a time, got {setting.features}")
    alone = torch.arange(n).unsqueeze(-1) if facts else torch.cat([torch.eye(n), torch.zeros(1, n)])
    with torch.no_grad(), one_thread():
        units = _units(trained, alone.expand(len(trained), *alone.shape), of, layer)
    return (units - units.mean(1, keepdim=True) if facts else units[:, :-1] - units[:, -1:]).mT
