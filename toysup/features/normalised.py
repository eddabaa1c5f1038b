"""Sparse features scaled so that every sample has length 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from toysup.features.base import Features, Numbers, as_tensor

# Gauss and Legendre's nodes and weights on (0, 1): means to a relative 1e-6 or better wherever that was tried
NODES, WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(200))
NODES, WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2


@dataclass(frozen=True)
class UnitLength(Features):
    """x = s / |s| with independent s_i, U(0, 1) with probability `density` and else 0; a sample without any active
    feature stays 0 (Henighan et al. 2023, Superposition, Memorization, and Double Descent).

    Features are dependent: sum_i x_i^2 = 1 unless all are 0. So E x_i^2 = (1 - (1 - p)^n) / n, and with
    1 / |s| = 2 / sqrt(pi) int_0^inf exp(-|s|^2 r^2) dr,

        E x_i = p / sqrt(pi) int_0^inf (1 - exp(-r^2)) / r^2 phi(r)^(n - 1) dr,
        phi(r) = E exp(-s_i^2 r^2) = 1 - p + p sqrt(pi) erf(r) / (2 r),

    integrated by Gauss-Legendre in v, r = v / (1 - v).

    Args:
        density: p in (0, 1], one number.
    """

    density: Numbers = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_float("density")

    @property
    def activity(self) -> Float[Tensor, ""]:
        return as_tensor(self.density)

    @property
    def mean(self) -> Float[Tensor, ""]:
        density = as_tensor(self.density)
        p = density.double()  # phi is close to 1 and its power is large
        v, weight = NODES.to(p.device), WEIGHTS.to(p.device)
        r, weight = v / (1 - v), weight / (1 - v) ** 2
        phi = 1 - p + p * math.sqrt(math.pi) * torch.erf(r) / (2 * r)
        inner = -torch.expm1(-r * r) / (r * r) * phi ** (self.n_features - 1)
        return (p / math.sqrt(math.pi) * (weight * inner).sum()).to(density.dtype)

    @property
    def second_moment(self) -> Float[Tensor, ""]:
        return -torch.expm1(self.n_features * torch.log1p(-as_tensor(self.density))) / self.n_features

    def transform(self, uniforms: Float[Tensor, "*batch n_uniforms"]) -> Float[Tensor, "*batch n_features"]:
        self._check_width(uniforms)
        density = as_tensor(self.density, uniforms)
        s = torch.where(uniforms < density, uniforms * density.reciprocal(), 0)
        s = s / s.amax(-1, keepdim=True).clamp(min=torch.finfo(s.dtype).tiny)  # so that no square underflows
        return s / s.norm(dim=-1, keepdim=True).clamp(min=1)
