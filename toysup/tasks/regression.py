"""Targets that are numbers, one for each feature or pair of features, or one in all."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from toysup.checks import InputError, check_interval, check_whole, concrete
from toysup.features import Features
from toysup.features.base import Independent
from toysup.tasks.base import Constants, Task


def _power(difference: Tensor, exponent: float | Tensor) -> Tensor:
    if isinstance(exponent, int | float) and exponent in (2, 4):
        square = difference * difference
        return square if exponent == 2 else square * square
    return difference.abs().pow(exponent)


@dataclass(frozen=True)
class Regression(Task):
    """y_i = g(x_i), loss = E sum_i I_i |y_i - y'_i|^q (Elhage et al. 2022 with q = 2; the sum, not the mean, over i).

    `importance` I >= 0 is one number or one for each feature; `exponent` q > 1. The moments of y assume that features
    are uncorrelated ("linear"), nothing else.
    """

    importance: float | Any = 1.0
    exponent: float = 2.0

    def __post_init__(self) -> None:
        check_interval(type(self).__name__, "importance", self.importance, 0)
        check_interval(type(self).__name__, "exponent", self.exponent, 1, open_low=True, one=True)

    def check(self, features: Features) -> None:
        check_interval(type(self).__name__, "importance", self.importance, 0, length=self.n_outputs(features))

    def n_outputs(self, features: Features) -> int:
        return features.n_features

    @abstractmethod
    def target(self, x: Float[Tensor, "batch feature"], constants: Constants) -> Float[Tensor, "batch out"]:
        """g, sample by sample."""

    @abstractmethod
    def target_moments(self, features: Features, constants: Constants) -> tuple[Tensor, Tensor, Tensor]:
        """(E y_i, E y_i^2, what the best affine map of x takes off Var y_i), each of length n_outputs."""

    def batch(self, features: Features, constants: Constants, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        x = features.transform(uniforms)
        return x, self.target(x, constants)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return (_weights(self.importance, output) * _power(output - target, self.exponent)).sum(-1).mean()

    def errors(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square()

    def baseline(self, features: Features, constants: Constants) -> Tensor:
        mean, second, _ = self.target_moments(features, constants)
        return (second - mean * mean).expand(self.n_outputs(features))

    def trivial_losses(self, features: Features, constants: Constants, width: int | None = None) -> dict[str, Tensor]:
        if not isinstance(self.exponent, float | int) or self.exponent != 2:  # a tensor: it differs by instance
            return {}
        mean, second, gain = (m.expand(self.n_outputs(features)) for m in self.target_moments(features, constants))
        weight = _weights(self.importance, mean).expand_as(mean)
        constant = (weight * (second - mean * mean)).sum()
        kept = self.linear_directions(features, constants, weight, gain)[:width].sum()
        return {"zero": (weight * second).sum(), "constant": constant, "linear": constant - kept}

    def linear_directions(self, features: Features, constants: Constants, weight: Tensor, gain: Tensor) -> Tensor:
        """What the best affine map takes off the loss along its own principal directions, largest first.

        Here those are the outputs: each is fitted by a feature of its own, and features are uncorrelated.
        """
        return (weight * gain).sort(descending=True).values


def _weights(importance: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(importance, dtype=like.dtype, device=like.device)


def _gain(covariance: Tensor, variance: Tensor) -> Tensor:
    return covariance * covariance / variance.clamp(min=torch.finfo(variance.dtype).tiny)


@dataclass(frozen=True)
class Identity(Regression):
    """y = x: what can be held in the width (Elhage et al. 2022). "linear" is the PCA solution: it keeps the `width`
    largest I_i Var x_i."""

    def target(self, x: Tensor, constants: Constants) -> Tensor:
        return x

    def target_moments(self, features: Features, constants: Constants) -> tuple[Tensor, Tensor, Tensor]:
        return features.mean, features.second_moment, features.variance


@dataclass(frozen=True)
class AbsoluteValue(Regression):
    """y = |x| (Elhage et al. 2022, "Computation in superposition"). For symmetric x no linear map beats a constant."""

    def target(self, x: Tensor, constants: Constants) -> Tensor:
        return x.abs()

    def target_moments(self, features: Features, constants: Constants) -> tuple[Tensor, Tensor, Tensor]:
        mean, second = features.mean_absolute, features.second_moment
        with_x = 2 * features.positive_second_moment - second  # E x |x|
        return mean, second, _gain(with_x - mean * features.mean, features.variance)


@dataclass(frozen=True)
class XPlusRelu(Regression):
    """y = x + relu(x): the residual-MLP target of Braun et al. 2025 (attribution-based parameter decomposition).

    Labels come from x itself, never through an embedding.
    """

    def target(self, x: Tensor, constants: Constants) -> Tensor:
        return x + torch.relu(x)

    def target_moments(self, features: Features, constants: Constants) -> tuple[Tensor, Tensor, Tensor]:
        mean = features.mean + (features.mean_absolute + features.mean) / 2
        second = features.second_moment + 3 * features.positive_second_moment
        with_x = features.second_moment + features.positive_second_moment  # E x y
        return mean, second, _gain(with_x - mean * features.mean, features.variance)


@dataclass(frozen=True)
class And(Regression):
    """y_k = x_i x_j for `n_pairs` distinct random pairs (i, j) of features: AND where features are boolean.

    The setting of universal AND (Haenni et al. 2024; Adler and Shavit 2024). Features must be independent.
    "linear" is exact: by the Hoeffding decomposition the best affine map leaves Var x_i Var x_j.
    """

    n_pairs: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "n_pairs", check_whole("And", "n_pairs", self.n_pairs))

    def check(self, features: Features) -> None:
        super().check(features)
        most = features.n_features * (features.n_features - 1) // 2
        if self.n_pairs > most:
            n = features.n_features
            raise InputError(f"And: n_pairs must be at most {most} for {n} features, got {self.n_pairs}")

    def n_outputs(self, features: Features) -> int:
        return self.n_pairs

    def constant_uniforms(self, features: Features) -> int:
        return features.n_features * (features.n_features - 1) // 2

    def constants(self, features: Features, uniforms: Tensor) -> Constants:
        n = features.n_features
        first, second = torch.triu_indices(n, n, 1, device=uniforms.device)
        chosen = uniforms.argsort()[: self.n_pairs]
        return {"first": first[chosen], "second": second[chosen]}

    def target(self, x: Tensor, constants: Constants) -> Tensor:
        return x[..., constants["first"]] * x[..., constants["second"]]

    def target_moments(self, features: Features, constants: Constants) -> tuple[Tensor, Tensor, Tensor]:
        i, j = constants["first"], constants["second"]
        mean, second = (m.expand(features.n_features) for m in (features.mean, features.second_moment))
        variance = second - mean * mean
        gain = mean[j] ** 2 * variance[i] + mean[i] ** 2 * variance[j]
        return mean[i] * mean[j], second[i] * second[j], gain

    def linear_directions(self, features: Features, constants: Constants, weight: Tensor, gain: Tensor) -> Tensor:
        # Pairs that share a feature share a direction: singular values of the fit mean_j x_i + mean_i x_j, in stds.
        i, j = constants["first"], constants["second"]
        mean, variance = (m.expand(features.n_features) for m in (features.mean, features.variance))
        is_first, is_second = (F.one_hot(k, features.n_features).to(mean.dtype) for k in (i, j))
        fit = (is_first * mean[j, None] + is_second * mean[i, None]) * variance.sqrt() * weight.sqrt()[:, None]
        return torch.linalg.svdvals(fit).square()


@dataclass(frozen=True)
class SumOfSquares(Task):
    """y = sum_i v_i x_i^2, one number, loss E (y - y')^2 (Scherlis et al. 2022): who gets how much of the width?

    x is what the features draw, scaled to unit second moment, so that only its kurtosis k_i is left to matter. Features
    must be independent and symmetric about 0 (`signed`): then Var y = sum_i v_i^2 (k_i - 1), and no linear map of x
    beats a constant. A feature's `importance` v >= 0 is its coefficient here, not a weight of the loss.
    """

    importance: float | Any = 1.0

    def __post_init__(self) -> None:
        check_interval("SumOfSquares", "importance", self.importance, 0)

    def check(self, features: Features) -> None:
        check_interval("SumOfSquares", "importance", self.importance, 0, length=features.n_features)
        own = type(features)
        if not isinstance(features, Independent) or own.transform is not Independent.transform:
            raise InputError(f"SumOfSquares: features must be independent, got {type(features).__name__}")
        mean = concrete(features.mean)
        if mean is not None and mean.any():
            raise InputError(f"SumOfSquares: features must be symmetric about 0 (signed), got mean {mean.max():g}")

    def n_outputs(self, features: Features) -> int:
        return 1

    def batch(self, features: Independent, constants: Constants, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        x = features.transform(uniforms) * features.second_moment.rsqrt()
        return x, (_weights(self.importance, x) * x.square()).sum(-1, keepdim=True)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().sum(-1).mean()

    def errors(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square()

    def evidence(self, inputs: Tensor, target: Tensor) -> Float[Tensor, "batch 1 feature"]:
        """Every feature that has a coefficient: the rarest have most of the variance. For the others stands y."""
        return torch.where(_weights(self.importance, inputs) > 0, inputs, target).unsqueeze(-2)

    def baseline(self, features: Independent, constants: Constants) -> Tensor:
        kurtosis = features.kurtosis
        v = _weights(self.importance, kurtosis)
        return (v * v * (kurtosis - 1)).expand(features.n_features).sum().unsqueeze(0)

    def features_per_score(self, features: Features) -> Tensor:
        return torch.tensor(float(features.n_features))

    def trivial_losses(
        self, features: Independent, constants: Constants, width: int | None = None
    ) -> dict[str, Tensor]:
        constant = self.baseline(features, constants).squeeze(0)
        mean = _weights(self.importance, constant).expand(features.n_features).sum()
        return {"zero": constant + mean * mean, "constant": constant, "linear": constant}
