"""What a network made of a finite training set: its examples' hidden vectors, and the loss on them and on unseen data.

Examples that are memorised lie in the hidden space as features do in a network that generalises: in superposition, each
with a share of the dimensions (Henighan et al. 2023, Superposition, Memorization, and Double Descent). Samples are gone
through in small batches and only their mean loss is kept, so that ten thousand features cost little.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, vmap

from toysup.ensemble import Trained, bound, one_thread
from toysup.measure.geometry import dimensionality
from toysup.measure.held_out import Estimate
from toysup.random import Stream

__all__ = ["hidden_vectors", "irregularity", "seen_loss", "typical_dimensionality", "unseen_loss"]

MOST = 8192  # training examples that are looked at, of larger sets the first
UNSEEN, BATCH, GROUPS = 16_384, 128, 16  # held-out samples, of one batch, and groups whose spread is the error


def _examples(trained: Trained) -> Iterator[tuple[Tensor, Tensor]]:
    """(input, target) of the training set, batch by batch; of a large set, or endless data, the first MOST examples."""
    batch, cycle = trained.setting.batch, trained.setting.cycle
    for number in range(min(cycle or MOST, -(-MOST // batch))):
        yield trained.batch(number, batch, Stream.TRAIN)


def _loss(trained: Trained, x: Tensor, target: Tensor) -> Float[Tensor, " instance"]:
    def one(values, output, target):
        return bound(trained.setting, values).task.loss(output, target)

    return vmap(one)(trained.values, trained.forward(x), target)


def hidden_vectors(trained: Trained) -> Float[Tensor, "instance example width"]:
    """What the training examples are at the first entry of the stream, of MOST of them where there are more."""
    found = []
    for x, _ in _examples(trained):
        _, activations = trained.forward(x, record=True)
        found.append(activations.residual[:, :, 0])
    return torch.cat(found, 1)


def seen_loss(trained: Trained) -> Float[Tensor, " instance"]:
    """Loss of the trained network on its training set, on MOST examples where there are more, (instance,)."""
    with torch.no_grad(), one_thread():
        return torch.stack([_loss(trained, x, target) for x, target in _examples(trained)]).mean(0)


def unseen_loss(trained: Trained) -> Estimate:
    """Held-out loss on UNSEEN samples, (instance,): `held_out_loss` without what that gathers for each feature."""
    with torch.no_grad(), one_thread():
        batches = [_loss(trained, *trained.batch(number, BATCH)) for number in range(UNSEEN // BATCH)]
    groups = torch.stack(batches).view(GROUPS, -1, len(trained)).mean(1)
    return Estimate(groups.mean(0), groups.std(0) / GROUPS**0.5)


def typical_dimensionality(V: Float[Tensor, "*stack vector width"]) -> Float[Tensor, "*stack"]:
    """sum_i |V_i|^2 D_i / sum_i |V_i|^2: the dimensions that one vector has where the squared length is.

    The plain mean of D is about width / vectors whatever the vectors are (dimensionalities sum to the rank); this one
    says how few share the space: k vectors of one length in regular position among any number of short ones give
    width / k, a pentagon 2/5, a triangle 2/3. No vector at all gives 0.
    """
    squared = V.square().sum(-1)
    return (squared * dimensionality(V)).sum(-1) / squared.sum(-1).clamp(min=torch.finfo(V.dtype).tiny)


def irregularity(V: ArrayLike) -> tuple[int, float]:
    """(k, worst relative error of the angles between neighbours) of the vectors in a plane that are longer than half
    the longest: error 0 where they point to the corners of a regular k-gon; infinite for fewer than two.
    """
    V = np.asarray(V, dtype=np.float64)
    length = np.linalg.norm(V, axis=1)
    long = V[length > length.max() / 2]
    if len(long) < 2:
        return len(long), np.inf
    angles = np.sort(np.arctan2(long[:, 1], long[:, 0]))
    gaps = np.diff(angles, append=angles[0] + 2 * np.pi)
    return len(long), float(np.abs(gaps * len(long) / (2 * np.pi) - 1).max())
