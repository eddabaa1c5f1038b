"""What the world looks like: sparse-feature distributions, each a pure function of uniforms in (0, 1), ends excluded.

One mechanism serves all of them. A uniform u decides whether a feature is active (u < p), and u / p, which is again
uniform on (0, 1) where the feature is active, decides its magnitude. A distribution says where features are active, a
`Magnitude` says what their values are, and the moments follow from the two.

Float fields (density, exponent, ...) may vary by instance: the engine puts tensors of shape () or (n_features,) in
their place, under vmap and compile. Fields that are int, str or bool fix sizes and kinds, and a stack shares them.

To add independent features with another activity, subclass `Independent`; with another dependence, `Sparse`; with
magnitudes that depend on what is active, `Features`. To add a magnitude, add a line to `MAGNITUDES`.
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.special import ndtr, ndtri

from toysup.checks import InputError, check_interval, check_whole, concrete

__all__ = [
    "MAGNITUDES",
    "Correlated",
    "ExactlyK",
    "Features",
    "GaussianCopula",
    "Hierarchy",
    "Independent",
    "Magnitude",
    "OnePerGroup",
    "PowerLaw",
    "Sparse",
    "SparseBoolean",
    "SparseNormal",
    "SparseUniform",
]

Numbers = float | Sequence[float] | np.ndarray | Tensor


def _tensor(value: Numbers, like: Tensor | None = None) -> Tensor:
    """`value` as a tensor with the dtype and device of `like`; without `like`, float32 unless it is a tensor already.

    Dividing by a tensor on the same device is an IEEE division everywhere; CUDA turns division by a Python number into
    multiplication by its reciprocal, which rounds differently.
    """
    if like is not None:
        return torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float32)


def _below_one(v: Tensor) -> Tensor:
    """`v` limited to the largest number below 1, where the normal quantile is still finite."""
    return v.clamp(max=1 - torch.finfo(v.dtype).eps / 2)


class Magnitude(NamedTuple):
    """The law of a feature's value given that it is active.

    `value` maps v, uniform on (0, 1), to the value elementwise; it must stay finite for finite v >= 1 too, which is
    what inactive features hand it before they are set to 0. The rest are its moments.
    """

    value: Callable[[Tensor], Tensor]
    mean: float
    second_moment: float
    mean_absolute: float
    positive_second_moment: float  # E[m^2; m > 0]


# Name -> (unsigned, signed).
MAGNITUDES: dict[str, tuple[Magnitude, Magnitude]] = {
    "uniform": (  # U(0, 1); U(-1, 1)
        Magnitude(lambda v: v, 1 / 2, 1 / 3, 1 / 2, 1 / 3),
        Magnitude(lambda v: 2 * v - 1, 0, 1 / 3, 1 / 2, 1 / 6),
    ),
    "boolean": (  # 1; -1 or 1 evenly
        Magnitude(torch.ones_like, 1, 1, 1, 1),
        Magnitude(lambda v: torch.copysign(torch.ones_like(v), v - 0.5), 0, 1, 1, 1 / 2),
    ),
    "normal": (  # |N(0, 1)|, through the lower tail, where float32 is finest; N(0, 1)
        Magnitude(lambda v: -ndtri(_below_one(v) / 2), math.sqrt(2 / math.pi), 1, math.sqrt(2 / math.pi), 1),
        Magnitude(lambda v: ndtri(_below_one(v)), 0, 1, math.sqrt(2 / math.pi), 1 / 2),
    ),
}


@dataclass(frozen=True)
class Features(ABC):
    """A distribution of x in R^n_features: `transform` maps uniforms to samples, and the moments are its own.

    Moments are closed forms, float tensors that broadcast to (n_features,), on the device of the fields they come from
    (float32 unless a field is a tensor of another dtype). Bad arguments raise `InputError` on construction.

    Args:
        n_features: features of one sample, >= 1.
    """

    n_features: int

    def __post_init__(self) -> None:
        check_whole(type(self).__name__, "n_features", self.n_features)

    @property
    def n_uniforms(self) -> int:
        """Uniforms needed for one sample."""
        return self.n_features

    @abstractmethod
    def transform(self, uniforms: Float[Tensor, "*batch n_uniforms"]) -> Float[Tensor, "*batch n_features"]:
        """Samples from uniforms in the open interval (0, 1); dtype and device are those of `uniforms`."""

    @property
    @abstractmethod
    def activity(self) -> Float[Tensor, "*n_features"]:
        """P(x_i != 0)."""

    @property
    @abstractmethod
    def mean(self) -> Float[Tensor, "*n_features"]:
        """E x_i."""

    @property
    @abstractmethod
    def second_moment(self) -> Float[Tensor, "*n_features"]:
        """E x_i^2."""

    @property
    def mean_absolute(self) -> Float[Tensor, "*n_features"]:
        """E |x_i|. The default is right for features that are never negative."""
        return self.mean

    @property
    def positive_second_moment(self) -> Float[Tensor, "*n_features"]:
        """E[x_i^2; x_i > 0]. The default is right for features that are never negative."""
        return self.second_moment

    @property
    def variance(self) -> Float[Tensor, "*n_features"]:
        """Var x_i."""
        return self.second_moment - self.mean**2

    @property
    def expected_active(self) -> Float[Tensor, ""]:
        """Expected number of active features in one sample, sum_i P(x_i != 0)."""
        return self.activity.expand(self.n_features).sum()

    def _check_width(self, uniforms: Tensor) -> None:
        if uniforms.shape[-1] != self.n_uniforms:
            where, got = type(self).__name__, uniforms.shape[-1]
            raise InputError(f"{where}: uniforms have {got} entries, expected n_uniforms = {self.n_uniforms}")

    def _check_flag(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, bool):
            raise InputError(f"{type(self).__name__}: {name} must be True or False, got {value!r}")

    def _check_float(
        self, name: str, low: float = 0, high: float = 1, *, open_low: bool = True, per_feature: bool = False
    ) -> None:
        """Refuse a float field outside its range or of a wrong shape; store numbers as float, lists as arrays."""
        where, value = type(self).__name__, getattr(self, name)
        check_interval(where, name, value, low, high, open_low=open_low, length=self.n_features)
        array = concrete(value)
        if array is not None and array.ndim > per_feature:
            expected = f"one number or {self.n_features}" if per_feature else "one number"
            raise InputError(f"{where}: {name} has shape {array.shape}, expected {expected}")
        if isinstance(value, numbers.Real):  # so that density=1 is a float field, which may vary, not a static int
            object.__setattr__(self, name, float(value))
        elif not isinstance(value, Tensor):
            object.__setattr__(self, name, np.array(array))  # a copy: the caller may change or lock theirs

    def _check_divides(self, name: str) -> None:
        where, part, whole = type(self).__name__, getattr(self, name), self.n_features
        check_whole(where, name, part)
        if whole % part:
            raise InputError(f"{where}: {name} must divide n_features = {whole}, got {part}")


class Sparse(Features):
    """Features whose magnitude given that they are active is one of `MAGNITUDES`, so moment = activity * its moment.

    A subclass has a field `density` (or its own `activity`) and a `transform`. It may make `signed` and `magnitude`,
    the keys of `MAGNITUDES`, fields: `signed` always means values symmetric about 0.
    """

    density: Numbers  # not a field here, so that each distribution can place it among its own
    signed: ClassVar[bool] = False
    magnitude: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_flag("signed")
        if self.magnitude not in MAGNITUDES:
            known = ", ".join(MAGNITUDES)
            raise InputError(f"{type(self).__name__}: magnitude must be one of {known}, got {self.magnitude!r}")

    @property
    def given_active(self) -> Magnitude:
        """The law of x_i given that it is active."""
        return MAGNITUDES[self.magnitude][self.signed]

    @property
    def activity(self) -> Float[Tensor, "*n_features"]:
        return _tensor(self.density)

    @property
    def mean(self) -> Float[Tensor, "*n_features"]:
        return self.activity * self.given_active.mean

    @property
    def second_moment(self) -> Float[Tensor, "*n_features"]:
        return self.activity * self.given_active.second_moment

    @property
    def mean_absolute(self) -> Float[Tensor, "*n_features"]:
        return self.activity * self.given_active.mean_absolute

    @property
    def positive_second_moment(self) -> Float[Tensor, "*n_features"]:
        return self.activity * self.given_active.positive_second_moment


class Independent(Sparse):
    """Independent features: x_i = magnitude(u_i / p_i) where u_i < p_i, else 0, with p = `activity`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_float("density", per_feature=True)

    def transform(self, uniforms: Float[Tensor, "*batch n_uniforms"]) -> Float[Tensor, "*batch n_features"]:
        self._check_width(uniforms)
        activity = _tensor(self.activity, uniforms)
        return torch.where(uniforms < activity, self.given_active.value(uniforms / activity), 0)


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
        check_interval(type(self).__name__, "the largest activity, p_1,", self.activity, 0, 1)

    @property
    def activity(self) -> Float[Tensor, " n_features"]:
        exponent = _tensor(self.exponent)
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

    loadings: Numbers
    density: Numbers
    signed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        where, array = type(self).__name__, concrete(self.loadings)
        if array is None:
            return
        if array.ndim != 2 or array.shape[0] != self.n_features or array.shape[1] < 1:
            raise InputError(f"{where}: loadings have shape {array.shape}, expected ({self.n_features}, rank >= 1)")
        check_interval(where, "1 - |a_i|^2, a the loadings,", 1 - (array**2).sum(axis=1), 0, 1, open_low=True)
        if not isinstance(self.loadings, Tensor):
            object.__setattr__(self, "loadings", np.array(array))

    @property
    def n_uniforms(self) -> int:
        """rank + n_features."""
        return self.loadings.shape[1] + self.n_features

    def transform(self, uniforms: Float[Tensor, "*batch n_uniforms"]) -> Float[Tensor, "*batch n_features"]:
        self._check_width(uniforms)
        loadings = _tensor(self.loadings, uniforms)
        rank, normal = loadings.shape[1], ndtri(uniforms)
        z = normal[..., :rank] @ loadings.T + (1 - loadings.square().sum(1)).sqrt() * normal[..., rank:]
        w, activity = _below_one(ndtr(z)), _tensor(self.activity, uniforms)
        return torch.where(w < activity, self.given_active.value(w / activity), 0)

    def joint_activity(self, i: int, j: int) -> float:
        """P(x_i != 0 and x_j != 0), i != j: the bivariate normal distribution function at Phi^-1(p_i), Phi^-1(p_j) and
        correlation <a_i, a_j>."""
        from scipy.stats import multivariate_normal  # slow to import, and only this needs it

        loadings = concrete(self.loadings)
        density = np.broadcast_to(concrete(self.density), (self.n_features,))
        correlation = float(loadings[i] @ loadings[j])
        threshold = ndtri(torch.tensor([density[i], density[j]], dtype=torch.float64)).numpy()
        return float(multivariate_normal([0, 0], [[1, correlation], [correlation, 1]]).cdf(threshold))


@dataclass(frozen=True)
class Correlated(Sparse):
    """Consecutive groups whose features are active all together, or at most one at a time (Elhage et al. 2022,
    correlated and anticorrelated features). Magnitudes are independent U(0, 1), and groups are independent.

    With u the group's own uniform, floor(u / p) is 0 with probability p, as is each other whole number below 1 / p. A
    correlated group is active where it is 0; member j of an anticorrelated group where it is j.

    Args:
        group_size: features of one group; divides n_features.
        density: p, the probability that a feature is active, one number in (0, 1], or (0, 1 / group_size] if anti.
        anti: at most one feature of each group is active, in place of all or none.
        signed: U(-1, 1) magnitudes.
    """

    group_size: int
    density: Numbers
    anti: bool = False
    signed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_divides("group_size")
        self._check_flag("anti")
        self._check_float("density", high=1 / self.group_size if self.anti else 1)

    @property
    def n_uniforms(self) -> int:
        """One for each group, then one for each feature's magnitude."""
        return self.n_features // self.group_size + self.n_features

    def transform(self, uniforms: Float[Tensor, "*batch n_uniforms"]) -> Float[Tensor, "*batch n_features"]:
        self._check_width(uniforms)
        groups = self.n_features // self.group_size
        which = torch.floor(uniforms[..., :groups, None] / _tensor(self.density, uniforms))  # batch group 1
        member = torch.arange(self.group_size, dtype=uniforms.dtype, device=uniforms.device)
        active = (which == (member if self.anti else torch.zeros_like(member))).flatten(-2)  # batch feature
        return torch.where(active, self.given_active.value(uniforms[..., groups:]), 0)


@dataclass(frozen=True)
class Hierarchy(Sparse):
    """A child can be active only where its parent is: roots are active with probability `density`, a child of an active
    parent with probability `child_density`, so P(x_i != 0) = density child_density^depth_i. Magnitudes are U(0, 1).

    Features are numbered breadth first: 0 .. n_roots - 1 are the roots, and the parent of i >= n_roots is
    floor((i - n_roots) / branching).

    Args:
        branching: children of a feature, >= 1; 1 makes chains (a step of `transform` for each level).
        density: activity of a root, one number in (0, 1].
        child_density: activity of a child given its parent's, one number in (0, 1].
        n_roots: trees in the forest, at most n_features.
        signed: U(-1, 1) magnitudes.
    """

    branching: int
    density: Numbers
    child_density: Numbers
    n_roots: int = 1
    signed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        where = type(self).__name__
        check_whole(where, "branching", self.branching)
        check_whole(where, "n_roots", self.n_roots)
        check_interval(where, "n_roots", self.n_roots, 1, self.n_features)
        self._check_float("density")
        self._check_float("child_density")

    def _level_sizes(self) -> list[int]:
        """Features of depth 0, 1, ...; the last level may be cut short."""
        sizes, left, full = [], self.n_features, self.n_roots
        while left:
            sizes.append(min(full, left))
            left, full = left - sizes[-1], full * self.branching
        return sizes

    @property
    def activity(self) -> Float[Tensor, " n_features"]:
        child_density = _tensor(self.child_density)
        levels = [(self.density * child_density**k).expand(size) for k, size in enumerate(self._level_sizes())]
        return torch.cat(levels)

    def transform(self, uniforms: Float[Tensor, "*batch n_uniforms"]) -> Float[Tensor, "*batch n_features"]:
        self._check_width(uniforms)
        root = torch.arange(self.n_features, device=uniforms.device) < self.n_roots
        conditional = torch.where(root, _tensor(self.density, uniforms), _tensor(self.child_density, uniforms))
        levels = list((uniforms < conditional).split(self._level_sizes(), dim=-1))  # active if the parent is
        for k in range(1, len(levels)):
            parents = levels[k - 1][..., None].expand(*levels[k - 1].shape, self.branching).flatten(-2)
            levels[k] = levels[k] & parents[..., : levels[k].shape[-1]]
        return torch.where(torch.cat(levels, dim=-1), self.given_active.value(uniforms / conditional), 0)


@dataclass(frozen=True)
class ExactlyK(Sparse):
    """Exactly K features are active in every sample; all sets of K features are equally likely.

    The set comes from K uniforms by Floyd's algorithm (Bentley and Floyd 1987, A sample of brilliance): for top =
    n - K .. n - 1 draw a number in 0 .. top, and take it, or `top` if it is taken already. That is K steps on
    (batch, K) arrays, in place of sorting n uniforms. K = 1 is floor(u n).

    Args:
        n_active: K, 1 .. n_features.
        signed: values in [-1, 1] in place of [0, 1] (see `MAGNITUDES`).
        magnitude: "boolean" for value 1, "uniform" for U(0, 1), "normal" for |N(0, 1)|.
    """

    n_active: int = 1
    signed: bool = False
    magnitude: str = "boolean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(type(self).__name__, "n_active", self.n_active)
        check_interval(type(self).__name__, "n_active", self.n_active, 1, self.n_features)

    @property
    def n_uniforms(self) -> int:
        """n_active for the positions, then, unless all values are 1, n_active for the magnitudes."""
        return self.n_active * (2 if self.signed or self.magnitude != "boolean" else 1)

    @property
    def activity(self) -> Float[Tensor, ""]:
        return torch.tensor(self.n_active / self.n_features)

    def indices(self, uniforms: Float[Tensor, "*batch n_uniforms"]) -> Int[Tensor, "*batch n_active"]:
        """The active features, distinct. The set is uniformly random; the order within it is not."""
        self._check_width(uniforms)
        chosen = uniforms[..., :0].long()
        for k, top in enumerate(range(self.n_features - self.n_active, self.n_features)):
            drawn = _whole(uniforms[..., k : k + 1], top + 1)
            taken = (chosen == drawn).any(-1, keepdim=True)
            chosen = torch.cat([chosen, torch.where(taken, top, drawn)], dim=-1)
        return chosen

    def transform(self, uniforms: Float[Tensor, "*batch n_uniforms"]) -> Float[Tensor, "*batch n_features"]:
        values = self.given_active.value(uniforms[..., -self.n_active :])  # constant where there are no such uniforms
        zeros = uniforms.new_zeros((*uniforms.shape[:-1], self.n_features))
        return zeros.scatter(-1, self.indices(uniforms), values)


@dataclass(frozen=True)
class OnePerGroup(ExactlyK):
    """One active feature in each of K = n_active consecutive groups of n_features / K features, so exactly K in all.

    `indices` costs K uniforms and never builds the n_features axis, so n_features can be very large; features of one
    group are equally likely up to a relative error of about group size / 2^24 in float32.

    Args:
        n_active: K, divides n_features.
        signed, magnitude: as for `ExactlyK`; by default the active values are 1.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_divides("n_active")

    def indices(self, uniforms: Float[Tensor, "*batch n_uniforms"]) -> Int[Tensor, "*batch n_active"]:
        """The active feature of each group, in the order of the groups, numbered among all features."""
        self._check_width(uniforms)
        size = self.n_features // self.n_active
        group = torch.arange(self.n_active, device=uniforms.device)
        return group * size + _whole(uniforms[..., : self.n_active], size)


def _whole(uniforms: Tensor, n: int) -> Tensor:
    """floor(u n), in 0 .. n - 1. u n rounds below n for every u < 1; the clamp keeps a u of 1 from passing the end."""
    return (uniforms * n).long().clamp(max=n - 1)
