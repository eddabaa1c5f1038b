"""Measures followed through training: an instance's snapshots in one vector, so that a sweep keeps whole curves.

Train with `sweep(..., snapshots=steps)`; `curves` gives back arrays (row, snapshot, ...).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, vmap

from toysup.checks import InputError, check_whole
from toysup.ensemble import Trained, bound, one_thread
from toysup.measure.geometry import directions

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["antipode", "cosines", "curves", "loss_through", "through"]


def cosines(trained: Trained) -> Float[Tensor, "instance pair"]:
    """Cosine of the angle between the directions of features i < j, pairs in the order (0, 1), (0, 2), ..., (1, 2), ...

    0 where a feature has no direction.
    """
    W = torch.nn.functional.normalize(directions(trained), dim=-1)
    gram = W @ W.mT
    first, second = torch.triu_indices(W.shape[1], W.shape[1], 1)
    return gram[:, first, second]


def antipode(trained: Trained) -> Int[Tensor, "instance feature"]:
    """The one feature whose direction is more than 150 degrees from each feature's own; -1 where none or several are.

    150 degrees is half-way from an antipodal pair to a triangle, as in `theory.configuration`.
    """
    W = torch.nn.functional.normalize(directions(trained), dim=-1)
    opposite = W @ W.mT < -math.cos(math.radians(30))
    return torch.where(opposite.sum(-1) == 1, opposite.int().argmax(-1), -1)


def _snapshots(trained: Trained) -> list[Trained]:
    if not trained.snapshots:
        raise InputError("through: needs snapshots; train with sweep(..., snapshots=[...])")
    return [trained.at(step) for step in sorted(trained.snapshots)]


def through(measure: Callable[[Trained], Any]) -> Callable[[Trained], Any]:
    """A measure at every snapshot: (instance, snapshot * value), snapshots in the order of training.

    The column is `<measure>_through`; of a measure of several columns, one for each.
    """

    def joined(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(parts), 1).flatten(1)

    def followed(trained: Trained) -> Any:
        found = [measure(then) for then in _snapshots(trained)]
        if isinstance(found[0], Mapping):
            return {f"{name}_through": joined([one[name] for one in found]) for name in found[0]}
        return joined(found)

    followed.__name__ = f"{measure.__name__}_through"
    followed.__doc__ = f"{measure.__name__} at every snapshot, (instance, snapshot * value)."
    return followed


def loss_through(batches: int, size: int = 1024) -> Callable[[Trained], Tensor]:
    """The loss at every snapshot on held-out draws, (instance, snapshot), the same draws at all of them.

    Common draws cancel in differences between snapshots, so that a curve is far smoother than its height is certain.
    The column is `loss_through_<samples>`. For up to 8 independent features `theory.expected_loss` has no error at all.

    Args:
        batches, size: samples are batches * size; one batch is held in memory at a time.
    """
    check_whole("loss_through", "batches", batches)
    check_whole("loss_through", "size", size)

    def loss_through(trained: Trained) -> Tensor:
        then = _snapshots(trained)

        def score(values, output, target):
            return bound(trained.setting, values).task.loss(output, target)

        total = torch.zeros(len(trained), len(then))
        for number in range(batches):
            x, target = trained.batch(number, size)
            with torch.no_grad(), one_thread():
                total += torch.stack([vmap(score)(t.values, t.forward(x), target) for t in then], 1)
        return total / batches

    loss_through.__name__ = f"loss_through_{batches * size}"  # a sweep is identified by its measures' names
    return loss_through


def curves(features: pd.DataFrame, measure: str, snapshots: int) -> np.ndarray:
    """A measure `through` training, from `Results.features`: (row, snapshot, value), or (row, snapshot) of one value.

    Args:
        features: the table; measure: its column; snapshots: how many were taken.
    """
    if measure not in features:
        raise InputError(f"curves: no column {measure!r}, only {', '.join(features.columns)}")
    kept = features.loc[features[measure].notna(), ["row", "feature", measure]].sort_values(["row", "feature"])
    rows = kept["row"].nunique()
    if not rows or len(kept) % (rows * snapshots):
        raise InputError(
            f"curves: {measure} has {len(kept)} values of {rows} rows, no multiple of {snapshots} snapshots"
        )
    found = kept[measure].to_numpy().reshape(rows, snapshots, -1)
    return found[..., 0] if found.shape[-1] == 1 else found
