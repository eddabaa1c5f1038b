"""The mechanism all distributions share: where features are active, and what their values are given that."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.special import ndtri

from toysup.checks import InputError, check_choice, check_flag, check_interval, check_whole, concrete

Numbers: TypeAlias = float | Sequence[float] | np.ndarray | Tensor


def as_tensor(value: Numbers, like: Tensor | None = None) -> Tensor:
    """`value` as a tensor with the dtype and device of `like`; without `like`, float32 unless it is a tensor already.

    Dividing by a tensor on the same device is an IEEE division everywhere; CUDA turns division by a Python number into
    multiplication by its reciprocal, which rounds differently.
    """
    if like is not None:
        return torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float32)


def below_one(v: Tensor) -> Tensor:
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
    fourth_moment: float


UNIFORM = Magnitude(lambda v: v, 1 / 2, 1 / 3, 1 / 2, 1 / 3, 1 / 5)  # U(0, 1)
SIGNED = Magnitude(lambda v: 2 * v - 1, 0, 1 / 3, 1 / 2, 1 / 6, 1 / 5)  # U(-1, 1)
BOOLEAN = Magnitude(torch.ones_like, 1, 1, 1, 1, 1)  # 1
SIGN = Magnitude(lambda v: torch.copysign(torch.ones_like(v), v - 0.5), 0, 1, 1, 1 / 2, 1)  # -1 or 1 evenly

# Name -> (unsigned, signed). Fused kernels know the four above, as objects; the general path trains any other.
MAGNITUDES: dict[str, tuple[Magnitude, Magnitude]] = {
    "uniform": (UNIFORM, SIGNED),
    "boolean": (BOOLEAN, SIGN),
    "normal": (  # |N(0, 1)|, through the lower tail, where float32 is finest; N(0, 1)
        Magnitude(lambda v: -ndtri(below_one(v) / 2), math.sqrt(2 / math.pi), 1, math.sqrt(2 / math.pi), 1, 3),
        Magnitude(lambda v: ndtri(below_one(v)), 0, 1, math.sqrt(2 / math.pi), 1 / 2, 3),
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
        self._check_whole("n_features", 2**32 - 1)  # a draw's number of its feature has 32 bits

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
        where = type(self).__name__
        if not isinstance(uniforms, Tensor) or not uniforms.is_floating_point() or not uniforms.ndim:
            raise InputError(f"{where}: uniforms must be a tensor (..., {self.n_uniforms}) of floats")
        if uniforms.shape[-1] != self.n_uniforms:
            got = uniforms.shape[-1]
            raise InputError(f"{where}: uniforms have {got} entries, expected n_uniforms = {self.n_uniforms}")

    def _check_flag(self, name: str) -> None:
        check_flag(type(self).__name__, name, getattr(self, name))

    def _check_whole(self, name: str, at_most: int | None = None) -> None:
        """Refuse anything but a whole number >= 1; store it as int, since numpy's overflow."""
        value = check_whole(type(self).__name__, name, getattr(self, name), at_most=at_most)
        object.__setattr__(self, name, value)

    def _check_float(
        self, name: str, low: float = 0, high: float = 1, *, open_low: bool = True, per_feature: bool = False
    ) -> None:
        """Refuse a float field outside its range or of a wrong shape; store numbers as float, lists as arrays."""
        where, value = type(self).__name__, getattr(self, name)
        length = self.n_features if per_feature else None
        check_interval(where, name, value, low, high, open_low=open_low, length=length, one=not per_feature)
        array = concrete(value)
        if array is not None and array.ndim > 1:
            raise InputError(f"{where}: {name} has shape {array.shape}, expected one number or {self.n_features}")
        if array is None or isinstance(value, Tensor):
            return
        if not array.ndim:  # so that density=1 may vary too: an int would be static
            object.__setattr__(self, name, float(array))
        else:
            object.__setattr__(self, name, np.array(array))  # a copy: the caller may change or lock theirs

    def _check_divides(self, name: str) -> None:
        self._check_whole(name)
        where, part, whole = type(self).__name__, getattr(self, name), self.n_features
        if whole % part:
            raise InputError(f"{where}: {name} must divide n_features = {whole}, got {part}")


class Sparse(Features):
    """Features whose magnitude given that they are active is one of `MAGNITUDES`, so moment = activity * its moment.

    A subclass has a field `density` (or its own `activity`) and a `transform`. It may make `signed` and `magnitude`,
    the keys of `MAGNITUDES`, fields: `signed` always means values symmetric about 0.
    """

    density: Numbers  # not a field here, so that each distribution can place it among its own
    if TYPE_CHECKING:  # read only, so that they may be fields or the class's own in a subclass

        @property
        def signed(self) -> bool: ...

        @property
        def magnitude(self) -> str: ...
    else:
        signed, magnitude = False, "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_flag("signed")
        check_choice(type(self).__name__, "magnitude", self.magnitude, MAGNITUDES)

    @property
    def given_active(self) -> Magnitude:
        """The law of x_i given that it is active."""
        return MAGNITUDES[self.magnitude][self.signed]

    @property
    def activity(self) -> Float[Tensor, "*n_features"]:
        return as_tensor(self.density)

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

    @property
    def fourth_moment(self) -> Float[Tensor, "*n_features"]:
        """E x_i^4."""
        return self.activity * self.given_active.fourth_moment

    @property
    def kurtosis(self) -> Float[Tensor, "*n_features"]:
        """E x_i^4 / (E x_i^2)^2: the kurtosis where the mean is 0, as it is for signed values. Those of activity p have
        1/p (boolean), 9/(5p) (uniform) or 3/p (normal)."""
        return self.fourth_moment / self.second_moment**2


class Independent(Sparse):
    """Independent features: x_i = magnitude(u_i / p_i) where u_i < p_i, else 0, with p = `activity`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_float("density", per_feature=True)

    def transform(self, uniforms: Float[Tensor, "*batch n_uniforms"]) -> Float[Tensor, "*batch n_features"]:
        self._check_width(uniforms)
        activity = as_tensor(self.activity, uniforms)
        v = uniforms * activity.reciprocal()  # not a division: fused kernels do the same, bit for bit, at less cost
        return torch.where(uniforms < activity, self.given_active.value(v), 0)
