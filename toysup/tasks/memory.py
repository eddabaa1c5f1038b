"""Facts to be remembered."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from toysup.checks import InputError, check_whole
from toysup.features import Features, OnePerGroup
from toysup.tasks.base import Constants, Task


@dataclass(frozen=True)
class Memory(Task):
    """Facts: each feature is a key with a random label out of `n_labels` (C); of K active keys, name each one's label.

    Features are OnePerGroup (K groups, one active in each). The input is the indices of the active features, which a
    model embeds by frozen random keys; the output is C logits for each group. Loss is cross-entropy in nats, summed
    over the groups. A network that recovers a share 1 - CE / ln C of F facts has stored F log2 C times that in bits.
    """

    n_labels: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_labels", check_whole("Memory", "n_labels", self.n_labels, at_least=2))

    def check(self, features: Features) -> None:
        if not isinstance(features, OnePerGroup):
            raise InputError(f"Memory: features must be OnePerGroup, got {type(features).__name__}")

    def n_outputs(self, features: OnePerGroup) -> int:
        return features.n_active * self.n_labels

    def constant_uniforms(self, features: Features) -> int:
        return features.n_features

    def constants(self, features: Features, uniforms: Tensor) -> Constants:
        return {"labels": (uniforms * self.n_labels).long().clamp(max=self.n_labels - 1)}

    def batch(
        self, features: OnePerGroup, constants: Constants, uniforms: Tensor
    ) -> tuple[Int[Tensor, "batch group"], Int[Tensor, "batch group"]]:
        active = features.indices(uniforms)
        return active, constants["labels"][active]

    def _cross_entropy(self, output: Tensor, target: Tensor) -> Tensor:
        # classes first: over a short last axis torch's log_softmax is 20 times slower
        logits = output.unflatten(-1, (-1, self.n_labels)).movedim(-1, 0).contiguous()
        return -F.log_softmax(logits, 0).gather(0, target.unsqueeze(0)).squeeze(0)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return self._cross_entropy(output, target).sum(-1).mean()

    def errors(self, output: Tensor, target: Tensor) -> Tensor:
        return self._cross_entropy(output, target)

    def hits(self, output: Tensor, target: Tensor) -> Float[Tensor, "batch group"]:
        """1 where the largest logit of the group is the label's."""
        return (output.unflatten(-1, (-1, self.n_labels)).argmax(-1) == target).to(output.dtype)

    def baseline(self, features: OnePerGroup, constants: Constants) -> Tensor:
        return torch.full((features.n_active,), math.log(self.n_labels))

    def features_per_score(self, features: OnePerGroup) -> Tensor:
        return features.n_offered / features.n_active

    def trivial_losses(
        self, features: OnePerGroup, constants: Constants, width: int | None = None
    ) -> dict[str, Tensor]:
        """Labels are uniform, so that "zero" is the best constant too; what an affine map stores is not known."""
        return {"zero": torch.tensor(features.n_active * math.log(self.n_labels))}
