"""The linear code of trained networks, for `toysup.decoders` to read."""

from __future__ import annotations

from torch import Tensor

from toysup.checks import InputError
from toysup.decoders import Encoding
from toysup.ensemble import Trained
from toysup.features import SparseUniform
from toysup.features.base import UNIFORM
from toysup.measure.geometry import directions
from toysup.random import Stream

__all__ = ["encoding_of"]


def encoding_of(trained: Trained) -> Encoding:
    """The code of trained networks, by the directions that features take in their first layer.

    InputError unless features are SparseUniform, unsigned: the decoders know that x >= 0, and one the prior.
    """
    features = trained.setting.features
    if type(features) is not SparseUniform or features.given_active is not UNIFORM:
        raise InputError(f"encoding_of: features must be SparseUniform, unsigned, got {type(features).__name__}")
    n = features.n_features
    moments = [
        trained.per_instance(lambda setting, _, name=name: getattr(setting.features, name).expand(n))
        for name in ("mean", "variance", "activity")
    ]

    def draw(number: int, size: int, stream: Stream = Stream.HELD_OUT) -> Tensor:
        return trained.batch(number, size, stream)[0]

    return Encoding(directions(trained), *moments, draw, trained.setting.steps, trained.stack.init_seed)
