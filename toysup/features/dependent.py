"""Features whose activities hang together: groups, a hierarchy, and a fixed number active at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from toysup.checks import check_interval, check_room
from toysup.features.base import Numbers, Sparse, as_tensor


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

    @property
    def covariance(self) -> Float[Tensor, "n_features n_features"]:
        """Cov(x_i, x_j): within a group p (1 - p), or -p^2 if anti, times the squared mean magnitude; 0 between."""
        squared = self.given_active.mean**2
        within = -self.mean.square() if self.anti else self.activity * (1 - self.activity) * squared
        group = torch.arange(self.n_features, device=self.activity.device) // self.group_size
        same = group[:, None] == group
        return torch.where(same, within, 0.0).fill_diagonal_(0) + self.variance * torch.eye(self.n_features)

    def transform(self, uniforms: Float[Tensor, "*batch n_uniforms"]) -> Float[Tensor, "*batch n_features"]:
        self._check_width(uniforms)
        groups = self.n_features // self.group_size
        which = torch.floor(uniforms[..., :groups, None] / as_tensor(self.density, uniforms))  # batch group 1
        member = torch.arange(self.group_size, dtype=uniforms.dtype, device=uniforms.device)
        active = (which == (member if self.anti else torch.zeros_like(member))).flatten(-2)  # batch feature
        return torch.where(active, self.given_active.value(uniforms[..., groups:]), 0)


@dataclass(frozen=True)
class BitGroups(Correlated):
    """Consecutive groups of random bits: a group is active with probability `density`, and then each of its features is
    -1 or 1 evenly and independently; else all are 0. Features are uncorrelated, and dependent within a group.

    Args:
        group_size, density, anti: as for `Correlated`.
        signed: False makes all bits of an active group 1.
    """

    signed: bool = True
    magnitude: ClassVar[str] = "boolean"


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
        self._check_whole("branching")
        self._check_whole("n_roots", self.n_features)
        check_room(where, f"n_features = {self.n_features}", 16 * self.n_features)
        self._check_float("density")
        self._check_float("child_density")
        check_interval(where, "every activity", self.activity, 0, 1, open_low=True)

    def _level_sizes(self) -> list[int]:
        """Features of depth 0, 1, ...; the last level may be cut short."""
        sizes, left, full = [], self.n_features, self.n_roots
        while left:
            sizes.append(min(full, left))
            left, full = left - sizes[-1], full * self.branching
        return sizes

    @property
    def activity(self) -> Float[Tensor, " n_features"]:
        child_density = as_tensor(self.child_density)
        levels = [(self.density * child_density**k).expand(size) for k, size in enumerate(self._level_sizes())]
        return torch.cat(levels)

    def transform(self, uniforms: Float[Tensor, "*batch n_uniforms"]) -> Float[Tensor, "*batch n_features"]:
        self._check_width(uniforms)
        root = torch.arange(self.n_features, device=uniforms.device) < self.n_roots
        conditional = torch.where(root, as_tensor(self.density, uniforms), as_tensor(self.child_density, uniforms))
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
        self._check_whole("n_active", self.n_features)

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
        offered: share in (0, 1] of the features that ever occur: the first round(offered * group size) of each group,
            at least one. It may vary by instance, so that the load can vary inside one stack.
    """

    offered: Numbers = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_divides("n_active")
        self._check_float("offered")

    @property
    def n_offered(self) -> Float[Tensor, ""]:
        """How many features ever occur, over all groups."""
        return self.n_active * self._used(as_tensor(self.offered))

    def _used(self, offered: Tensor) -> Tensor:
        return (offered * (self.n_features // self.n_active)).round().clamp(min=1)

    @property
    def activity(self) -> Float[Tensor, " n_features"]:
        used = self._used(as_tensor(self.offered))
        position = torch.arange(self.n_features) % (self.n_features // self.n_active)
        return torch.where(position < used, 1 / used, 0.0)

    def indices(self, uniforms: Float[Tensor, "*batch n_uniforms"]) -> Int[Tensor, "*batch n_active"]:
        """The active feature of each group, in the order of the groups, numbered among all features."""
        self._check_width(uniforms)
        group = torch.arange(self.n_active, device=uniforms.device)
        used = self._used(as_tensor(self.offered, uniforms))
        return group * (self.n_features // self.n_active) + _whole(uniforms[..., : self.n_active], used)


def _whole(uniforms: Tensor, n: int | Tensor) -> Tensor:
    """floor(u n), in 0 .. n - 1. u n rounds below n for every u < 1; the clamp keeps a u of 1 from passing the end."""
    return (uniforms * n).clamp(max=n - 1).long()
