"""The interface of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from toysup.features import Features

Constants = dict[str, Tensor]


class Task(ABC):
    """The interface: one instance, batch first. Subclasses are frozen dataclasses."""

    def check(self, features: Features) -> None:  # noqa: B027 (most tasks can use any features)
        """Refuse features that this task cannot use, with an InputError."""

    def alone(self) -> Task:
        """This task for one thread's use: a copy that shares no module with others, where it holds any."""
        return self

    def n_inputs(self, features: Features) -> int:
        """Size of the model's input."""
        return features.n_features

    @abstractmethod
    def n_outputs(self, features: Features) -> int:
        """Size of the model's output."""

    def constant_uniforms(self, features: Features) -> int:
        """How many uniforms `constants` wants, once for each instance."""
        return 0

    def constants(self, features: Features, uniforms: Float[Tensor, " draw"]) -> Constants:
        """What an instance draws once and keeps, by name."""
        return {}

    @abstractmethod
    def batch(
        self, features: Features, constants: Constants, uniforms: Float[Tensor, "batch uniform"]
    ) -> tuple[Tensor, Tensor]:
        """(input, target) of one batch."""

    @abstractmethod
    def loss(self, output: Float[Tensor, "batch out"], target: Tensor) -> Float[Tensor, ""]:
        """The training loss: averaged over the batch, summed over outputs."""

    @abstractmethod
    def errors(self, output: Float[Tensor, "batch out"], target: Tensor) -> Float[Tensor, "batch score"]:
        """Held-out error of each sample and score, in the unit of `baseline`."""

    def hits(self, output: Float[Tensor, "batch out"], target: Tensor) -> Float[Tensor, "batch score"] | None:
        """1 where the output names the target, 0 where it does not: of tasks whose targets are labels.

        None, as here, where targets are numbers, which no output gives to the last bit.
        """
        return None

    def evidence(self, inputs: Tensor, target: Tensor) -> Float[Tensor, "batch score *part"]:
        """What must be seen to vary before a score is known: the target, or, of a score that adds up several parts
        which may be seldom there, each of the parts. A number for each sample and score (and part).

        An answer of another shape is not looked at; a score then varies where the error of a constant output does.
        Tasks with labels (`hits`) are not asked: each label says something.
        """
        return target

    @abstractmethod
    def baseline(self, features: Features, constants: Constants) -> Float[Tensor, " score"]:
        """Expected error of the best constant output; 1 - error / baseline is the recovered share (R^2 or bits)."""

    def features_per_score(self, features: Features) -> Float[Tensor, ""]:
        """How many features one entry of `errors` stands for."""
        return torch.ones(())

    def trivial_losses(
        self, features: Features, constants: Constants, width: int | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Expected losses of predictors that learned nothing, in closed form and in the unit of `loss`: the nulls of a
        figure. Each is one number, shape (), and only those that are known are there:

        "zero": the output 0 (of labels, all labels alike); "constant": the best output that knows no input; "linear":
        the best affine map through a bottleneck of `width` dimensions (None: no bottleneck). Empty where none is
        known, as here: a task with such formulas overrides this.
        """
        return {}
