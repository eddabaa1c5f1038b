"""How often a feature is on when its readout says so: purity by activation level, and what interference predicts.

A feature's readout in the code h is z_i = W_i . h / |W_i|^2 = x_i + t_i, t_i the interference of all others. Weak
readouts are often interference alone, so they look polysemantic (a unit fires for many things); superposition of
independent features predicts how often.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.special import ndtr

from toysup.checks import InputError, check_whole
from toysup.ensemble import Trained, one_thread
from toysup.evidence import BATCH
from toysup.features.base import UNIFORM
from toysup.geometry import REPRESENTED
from toysup.measure.geometry import directions

__all__ = ["Purity", "purity"]


class Purity(NamedTuple):
    """Each (instance, level): P(x_i > 0 | z_i in the level's range), averaged over represented features and samples.

    `measured` from the data; `independent` what it would be if interference knew nothing of x_i, by pairing each
    sample's x_i with another sample's t_i; `gaussian` the same with normal interference, P(on | z) =
    p f1(z) / (p f1(z) + (1 - p) f0(z)), f0 the density of t_i and f1 that of U[0, 1] + t_i; `count` how many readouts
    fell into the range. NaN where none did.
    """

    measured: Float[Tensor, "instance level"]
    independent: Float[Tensor, "instance level"]
    gaussian: Float[Tensor, "instance level"]
    count: Float[Tensor, "instance level"]


def purity(trained: Trained, edges: np.ndarray, *, batches: int = 64) -> Purity:
    """Purity of readouts z_i between consecutive `edges` (ascending, at least two), on held-out draws.

    Features must be of magnitude U[0, 1]; their dependence is free. Features with |W_i|^2 <= 1/4 are left out.

    Raises:
        InputError: features of another magnitude; edges not ascending; fewer than 2 batches (a sample needs another to
            be paired with).
    """
    check_whole("purity", "batches", batches, 2)
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or edges.size < 2 or not (np.diff(edges) > 0).all():
        raise InputError(f"purity: edges must be two or more ascending numbers, got {edges}")
    features = trained.setting.features
    if getattr(features, "given_active", None) is not UNIFORM:
        raise InputError(f"purity: features must be U[0, 1] where they are active, got {features}")
    W = directions(trained)
    squared = W.square().sum(-1)
    on = squared > REPRESENTED
    readout = W / squared.clamp(min=REPRESENTED).unsqueeze(-1)
    gain = W @ readout.mT  # [j, i]: what feature j adds to z_i
    overlap = gain * (1 - torch.eye(W.shape[1], dtype=W.dtype))
    n = features.n_features
    mean, variance, density = (
        trained.per_instance(lambda setting, _, name=name: getattr(setting.features, name).expand(n))
        for name in ("mean", "variance", "activity")
    )
    shift = torch.einsum("iab,ia->ib", overlap, mean)
    spread = torch.einsum("iab,ia->ib", overlap.square(), variance).sqrt().clamp(min=1e-6)
    levels = len(edges) - 1
    bounds = torch.as_tensor(edges, dtype=W.dtype)
    hits, seen = torch.zeros(2, len(trained), levels), torch.zeros(2, len(trained), levels)
    expected = torch.zeros(len(trained), levels)
    with torch.no_grad(), one_thread():
        for number in range(batches):
            x = trained.batch(number, BATCH)[0]
            interference = x @ overlap
            # the next sample's interference: independent of this sample, of the same law
            for k, other in enumerate((interference, interference.roll(1, dims=1))):
                z = x + other
                level = torch.bucketize(z, bounds) - 1
                inside = (level >= 0) & (level < levels) & on.unsqueeze(1)
                place = level.clamp(0, levels - 1)
                active = inside & (x > 0)
                hits[k] += _sums(active.float(), place, levels)
                seen[k] += _sums(inside.float(), place, levels)
                if k == 0:
                    expected += _sums(_posterior(z, shift, spread, density) * inside, place, levels)
    return Purity(hits[0] / seen[0], hits[1] / seen[1], expected / seen[0], seen[0])


def _sums(values: Tensor, place: Tensor, levels: int) -> Tensor:
    """(instance, level): values added up by place."""
    out = values.new_zeros(len(values), levels)
    return out.scatter_add(1, place.flatten(1), values.flatten(1))


def _posterior(z: Tensor, shift: Tensor, spread: Tensor, density: Tensor) -> Tensor:
    """P(on | z) with interference N(shift, spread^2)."""
    shift, spread, density = (t.unsqueeze(1) for t in (shift, spread, density))
    t = (z - shift) / spread
    off = torch.exp(-(t**2) / 2) / ((2 * torch.pi) ** 0.5 * spread)
    side = torch.where(z - shift < 0.5, 1.0, -1.0)  # tails are subtracted on the side where both are small
    one = side * (ndtr(side * t) - ndtr(side * (t - 1 / spread)))
    return density * one / (density * one + (1 - density) * off).clamp(min=1e-30)
