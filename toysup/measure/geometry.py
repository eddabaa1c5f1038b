"""Features in the stream they are embedded in, one number for each (Elhage et al. 2022).

A feature's direction W_i is what it alone writes to the stream: residual(e_i) - residual(0) at the first entry of the
stream, so any model that records its activations can be measured. These are budgets, not counts of recovered features:
a norm above 1/2 is no recovery, and dimensionalities sum to the rank at most. Shapes that directions form: see
`toysup.geometry`.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from toysup.ensemble import Trained
from toysup.geometry import REPRESENTED, clusters, dimensionality

__all__ = ["dimensions_per_feature", "directions", "feature_dimensionality", "feature_norm", "interference", "packing"]


def directions(trained: Trained) -> Float[Tensor, "instance feature width"]:
    """W_i of every instance."""
    n = trained.setting.task.n_inputs(trained.setting.features)
    probe = torch.cat([torch.eye(n), torch.zeros(1, n)]).expand(len(trained), -1, -1)
    _, activations = trained.forward(probe, record=True)
    embedded = activations.residual[:, :, 0]
    return embedded[:, :-1] - embedded[:, -1:]


def feature_norm(trained: Trained) -> Float[Tensor, "instance feature"]:
    """|W_i|."""
    return directions(trained).norm(dim=-1)


def interference(trained: Trained) -> Float[Tensor, "instance feature"]:
    """sum_{j != i} (W^_i . W_j)^2: how strongly the other features press on feature i's direction; 0 where W_i = 0."""
    W = directions(trained)
    squared = W.square().sum(-1)
    pressed = (W @ W.mT).square().sum(-1) - squared.square()
    return torch.where(squared == 0, 0.0, pressed / squared.clamp(min=torch.finfo(W.dtype).tiny))


def feature_dimensionality(trained: Trained) -> Float[Tensor, "instance feature"]:
    """D_i of every feature; see `dimensionality`."""
    return dimensionality(directions(trained))


def dimensions_per_feature(trained: Trained) -> Float[Tensor, " instance"]:
    """D* = m / |W|_F^2 (Elhage et al. 2022): width over summed squared norms, infinite where nothing is embedded."""
    W = directions(trained)
    return W.shape[-1] / W.square().sum((-2, -1))


def packing(trained: Trained) -> dict[str, Tensor]:
    """How features share dimensions, by the groups that `geometry.clusters` finds; each column (instance,).

    represented: features with |W_i|^2 > 1/4. sharing: those of them that are off a right angle with another.
    in_digons: those in antipodal pairs. superposed (0 or 1): some share, or more are represented than there are
    dimensions. top_alone (0 or 1): just the first `width` features are represented, and none shares (what PCA does
    where importance falls). later: mean number of the sharing features less that of those alone; NaN where there are
    none of one kind.
    """
    W = directions(trained).numpy(force=True)
    count, n, width = W.shape
    on, shared, paired = np.square(W).sum(-1) > REPRESENTED, np.zeros((count, n), bool), np.zeros((count, n), bool)
    for group in clusters(W).itertuples():
        shared[group.instance, list(group.features)] = len(group.features) > 1
        paired[group.instance, list(group.features)] = group.name == "digon"
    number, alone = np.arange(n), on & ~shared
    with np.errstate(invalid="ignore"):  # 0 / 0 where nothing is shared
        later = (shared * number).sum(1) / shared.sum(1) - (alone * number).sum(1) / alone.sum(1)
    found = {"represented": on.sum(1), "sharing": shared.sum(1), "in_digons": paired.sum(1), "later": later,
             "superposed": shared.any(1) | (on.sum(1) > width),
             "top_alone": (on == (number < width)).all(1) & ~shared.any(1)}  # fmt: skip
    return {name: torch.as_tensor(values) for name, values in found.items()}
