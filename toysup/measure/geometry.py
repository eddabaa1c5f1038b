"""Features in the stream they are embedded in, one number for each (Elhage et al. 2022).

A feature's direction W_i is what it alone writes to the stream: residual(e_i) - residual(0) at the first entry of the
stream, so any model that records its activations can be measured. These are budgets, not counts of recovered features:
a norm above 1/2 is no recovery, and dimensionalities sum to the rank at most. Shapes that directions form: see
`toysup.geometry`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from toysup.ensemble import Trained
from toysup.geometry import dimensionality

__all__ = ["dimensions_per_feature", "directions", "feature_dimensionality", "feature_norm", "interference"]


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
