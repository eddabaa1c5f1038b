"""Features that each have an activity of their own: uniform, normal and boolean values, Zipf, a Gaussian copula."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.special import ndtr, ndtri

from toysup.checks import InputError, check_interval, check_room, check_whole, concrete
from toysup.features.base import Independent, Numbers, as_tensor, below_one


@dataclass(frozen=True)
class SparseUniform(Independent):
    """Each feature is active with probability `density`, in (0, 1], one number or one per feature, and then U(0, 1); or
    U(-1, 1) if `signed`, from the same uniform (Elhage et al. 2022, Toy Models of Superposition)."""

    density: Numbers = 0.05
    signed: bool = False


@dataclass(frozen=True)
class SparseNormal(Independent):
    """Each feature is active with probability `density`, in (0, 1], one number or one per feature, and then N(0, 1); or
    half-normal, |N(0, 1)|, if not `signed`."""

    density: Numbers = 0.05
    signed: bool = True
    magnitude: ClassVar[str] = "normal"


@dataclass(frozen=True)
class SparseBoolean(Independent):
    """Each feature is active with probability `density`, in (0, 1], one number or one per feature, and then 1; or -1 or
    1 evenly if `signed`."""

    density: Numbers = 0.05
    signed: bool = False
    magnitude: ClassVar[str] = "boolean"


@dataclass(frozen=True)
class PowerLaw(Independent):
    """Independent U(0, 1) features whose activity falls as a power of the rank (Zipf): p_i = c i^-exponent, i = 1..n,
    with c such that the mean activity is `density`.

    Args:
        exponent: >= 0, one number; 0 makes all features alike.
        density: mean of p_i, in (0, 1], one number; p_1 = density n / sum_i i^-exponent must be at most 1.
        signed: U(-1, 1) magnitudes.
    """

    exponent: Numbers
    density: Numbers
    signed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_float("density")
        self._check_float("exponent", 0, math.inf, open_low=False)
        check_room(type(self).__name__, f"n_features = {self.n_features}", 16 * self.n_features)
        check_interval(type(self).__name__, "the largest activity, p_1,", self.activity, 0, 1)
        check_interval(type(self).__name__, "every activity", self.activity, 0, 1, open_low=True)

    @property
    def activity(self) -> Float[Tensor, " n_features"]:
        exponent = as_tensor(self.exponent)
        weight = torch.arange(1, self.n_features + 1, dtype=exponent.dtype, device=exponent.device) ** -exponent
        return self.density * weight / weight.mean()


@dataclass(frozen=True)
class GaussianCopula(Independent):
    """U(0, 1) features whose dependence is that of a factor model: z_i = <a_i, g> + sqrt(1 - |a_i|^2) e_i with standard
    normal g in R^rank and e; w_i = Phi(z_i) is uniform, feature i is active where w_i < p_i, with magnitude w_i / p_i.

    So one feature alone is a `SparseUniform` feature, and the sign of <a_i, a_j> says whether i and j attract or repel.
    Magnitudes are dependent too: features active together are small together. Zero loadings give independence.

    Args:
        loadings: a, (n_features, rank), |a_i|^2 < 1.
        density: p in (0, 1], one number or one per feature.
        signed: magnitudes 2 w_i / p_i - 1.
    """

    loadings: np.ndarray | Tensor
    density: Numbers
    signed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        where = type(self).__name__
        check_interval(where, "loadings", self.loadings)
        array = concrete(self.loadings)
        if array is None:
            return
        if array.ndim != 2 or array.shape[0] != self.n_features or array.shape[1] < 1:
            raise InputError(f"{where}: loadings have shape {array.shape}, expected ({self.n_features}, rank >= 1)")
        short = 1 - np.square(array, dtype=np.float32).sum(axis=1)  # as samples are: its root is taken
        check_interval(where, "1 - |a_i|^2, a the loadings,", short, 0, 1, open_low=True)
        if not isinstance(self.loadings, Tensor):
            object.__setattr__(self, "loadings", np.array(array))

    @property
    def n_uniforms(self) -> int:
        """rank + n_features."""
        return int(self.loadings.shape[1]) + self.n_features

    def transform(self, uniforms: Float[Tensor, "*batch n_uniforms"]) -> Float[Tensor, "*batch n_features"]:
        self._check_width(uniforms)
        loadings = as_tensor(self.loadings, uniforms)
        rank, normal = loadings.shape[1], ndtri(uniforms)
        z = normal[..., :rank] @ loadings.T + (1 - loadings.square().sum(1)).sqrt() * normal[..., rank:]
        w, activity = below_one(ndtr(z)), as_tensor(self.activity, uniforms)
        return torch.where(w < activity, self.given_active.value(w / activity), 0)

    def joint_activity(self, i: int, j: int) -> float:
        """P(x_i != 0 and x_j != 0), i != j: the bivariate normal distribution function at Phi^-1(p_i), Phi^-1(p_j) and
        correlation <a_i, a_j>."""
        from scipy.stats import multivariate_normal  # slow to import, and only this needs it

        for name, number in (("i", i), ("j", j)):
            check_whole("joint_activity", name, number, 0, self.n_features - 1)
        if i == j:
            raise InputError(f"joint_activity: i and j must differ, got {i} twice")
        loadings, density = concrete(self.loadings), concrete(self.density)
        if loadings is None or density is None:
            raise InputError("joint_activity: loadings and density must be known numbers, got tensors under vmap")
        density = np.broadcast_to(density, (self.n_features,))
        correlation = float(loadings[i] @ loadings[j])
        threshold = ndtri(torch.tensor([density[i], density[j]], dtype=torch.float64)).numpy()
        return float(multivariate_normal([0, 0], [[1, correlation], [correlation, 1]]).cdf(threshold))
