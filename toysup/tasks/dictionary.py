"""What a dictionary is asked: to rebuild activations of a fixed network from a sparse code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from toysup.checks import InputError, check_choice, check_interval, check_kind, concrete, in_line, whole_numbers
from toysup.features import Features
from toysup.random import Stream, uniforms
from toysup.safely import building
from toysup.tasks.base import Constants, Task
from toysup.tasks.regression import Identity

BASELINE_SAMPLES = 1 << 14


@dataclass(frozen=True)
class Reconstruction(Task):
    """h -> h, h the activations that `network` has on the features' samples; loss E |h - h'|^2 + penalty * cost.

    The dictionary trained on it returns a `models.Code`, which states the cost (an L1 norm, a number of latents).
    Several layers stand one after another in h, as a crosscoder wants them. The network's weights are one vector, so
    that they may differ by instance, as densities do: `measure.weights_of` has those of trained networks. Without
    weights each instance draws its own, as before training: `Model(Embedding, width=d)` has fixed directions for them.

    Args:
        network: a `Model`; its modules return `Activations` with `record=True`.
        weights: None, or the numbers of all parameters, then all buffers, in the module's order.
        of: the "stream" or the "neurons". layers: which entries of it, from 0.
        trained_on: the network's task, which says what its inputs and outputs are.
        scale: h is divided by it: one number > 0, or one for each unit of h.
        penalty: >= 0.
    """

    network: Callable[[int, int], nn.Module]
    weights: Any = None
    of: Literal["stream", "neurons"] = "stream"
    layers: Sequence[int] = (0,)
    trained_on: Task = Identity()  # noqa: RUF009 (frozen)
    scale: float | Any = 1.0
    penalty: float = 0.1

    def __post_init__(self) -> None:
        where = "Reconstruction"
        if not callable(self.network) or isinstance(self.network, nn.Module | type):
            raise InputError(f"{where}: network must be a Model, got {in_line(self.network)}")
        check_choice(where, "of", self.of, ("stream", "neurons"))
        check_kind(where, "trained_on", self.trained_on, Task)
        check_interval(where, "penalty", self.penalty, 0, one=True)
        check_interval(where, "scale", self.scale, 0, open_low=True)
        if self.weights is not None:
            check_interval(where, "weights", self.weights)
            if not isinstance(self.weights, Tensor):
                object.__setattr__(self, "weights", torch.as_tensor(concrete(self.weights), dtype=torch.float32))
        object.__setattr__(self, "layers", tuple(whole_numbers(where, "layers", self.layers)))
        object.__setattr__(self, "_built", {})  # sizes -> (module, units of a layer); the same for copies by `bind`

    def alone(self) -> Reconstruction:
        return replace(self, trained_on=self.trained_on.alone())  # with modules of its own

    def _network(self, features: Features) -> tuple[nn.Module, int]:
        """The module, whose own values are never used, and the size of one layer."""
        sizes = self.trained_on.n_inputs(features), self.trained_on.n_outputs(features)
        if sizes not in self._built:
            with building(), torch.no_grad():
                module = self.network(*sizes).eval()
                half = torch.full((1, features.n_uniforms), 0.5)
                x, _ = self.trained_on.batch(features, self._drawn_by_task(features), half)
                try:
                    recorded = module(x, record=True)[1]
                    units = recorded.residual if self.of == "stream" else recorded.neurons
                except (TypeError, AttributeError, IndexError) as error:
                    said = f"got {type(module).__name__}, which raised {in_line(error)}"
                    raise InputError(
                        f"Reconstruction: network must return Activations with record=True, {said}"
                    ) from error
            self._built[sizes] = module, units.shape[-2], units.shape[-1]
        module, layers, size = self._built[sizes]
        if not self.layers or not all(0 <= layer < layers for layer in self.layers):
            raise InputError(f"Reconstruction: layers must lie in 0 .. {layers - 1} of {self.of}, got {self.layers}")
        return module, size

    def _drawn_by_task(self, features: Features) -> Constants:
        wanted = self.trained_on.constant_uniforms(features)
        return self.trained_on.constants(features, torch.full((wanted,), 0.5)) if wanted else {}

    def check(self, features: Features) -> None:
        self.trained_on.check(features)
        module, _ = self._network(features)
        check_interval("Reconstruction", "scale", self.scale, length=self.n_inputs(features))
        weights, wanted = concrete(self.weights) if self.weights is not None else None, len(_flat(module))
        if weights is not None and weights.shape != (wanted,):
            raise InputError(f"Reconstruction: weights must be {wanted} numbers in one vector, got {weights.shape}")
        if self.weights is None and not hasattr(module, "initial"):
            raise InputError(f"Reconstruction: {type(module).__name__} has no initial() to draw weights by; give them")

    def n_inputs(self, features: Features) -> int:
        return len(self.layers) * self._network(features)[1]

    def n_outputs(self, features: Features) -> int:
        return self.n_inputs(features)

    def constant_uniforms(self, features: Features) -> int:
        return len(_flat(self._network(features)[0])) if self.weights is None else 0

    def constants(self, features: Features, uniforms: Float[Tensor, " draw"]) -> Constants:
        module, place, values = self._network(features)[0], 0, {}
        rules = module.initial()
        for name, tensor in _tensors(module).items():
            if callable(rules[name]):
                values[name] = rules[name](uniforms[place : place + tensor.numel()].view(tensor.shape))
            place += tensor.numel()
        return {"weights": torch.cat([values.get(n, values.get(rules[n])).flatten() for n in _tensors(module)])}

    def read(self, features: Features, constants: Constants, x: Tensor) -> Float[Tensor, "batch unit"]:
        """The activations that the network has on its inputs x."""
        module, _ = self._network(features)
        weights = constants["weights"] if self.weights is None else self.weights
        values, place = {}, 0
        for name, tensor in _tensors(module).items():
            values[name] = weights[place : place + tensor.numel()].view(tensor.shape)
            place += tensor.numel()
        recorded = functional_call(module, values, (x,), {"record": True})[1]
        units = recorded.residual if self.of == "stream" else recorded.neurons
        h = torch.cat([units[..., layer, :] for layer in self.layers], -1)
        if isinstance(self.scale, float | int) and self.scale == 1:
            return h
        return h / torch.as_tensor(self.scale, dtype=h.dtype, device=h.device)

    def batch(self, features: Features, constants: Constants, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        x, _ = self.trained_on.batch(features, self._drawn_by_task(features), uniforms)
        h = self.read(features, constants, x)
        return h, h

    def directions(self, features: Features, constants: Constants) -> Float[Tensor, "feature unit"]:
        """What each feature, alone and of value 1, adds to h. InputError where the network doesn't read features."""
        n = features.n_features
        half = torch.full((1, features.n_uniforms), 0.5)
        x, _ = self.trained_on.batch(features, self._drawn_by_task(features), half)
        if not x.is_floating_point() or x.shape[-1] != n:
            raise InputError(f"directions: {type(self.trained_on).__name__} does not hand features to its network")
        h = self.read(features, constants, torch.cat([torch.eye(n), torch.zeros(1, n)]).to(x))
        return h[:-1] - h[-1:]

    def loss(self, output: Any, target: Tensor) -> Tensor:
        if not hasattr(output, "cost"):
            raise InputError("Reconstruction: the model must return a Code, as SparseAutoencoder does")
        return (output.reconstruction - target).square().sum(-1).mean() + self.penalty * output.cost.mean()

    def errors(self, output: Any, target: Tensor) -> Tensor:
        return (output.reconstruction - target).square()

    def baseline(self, features: Features, constants: Constants) -> Tensor:
        """Variances, from 16,384 draws that are the same for all instances: no closed form for a network's units."""
        return self._sample(features, constants).var(0)

    def trivial_losses(self, features: Features, constants: Constants, width: int | None = None) -> dict[str, Tensor]:
        """Of codes without a latent, which cost nothing; from the draws of `baseline`."""
        h = self._sample(features, constants)
        return {"zero": h.square().sum(-1).mean(), "constant": h.var(0).sum()}

    def _sample(self, features: Features, constants: Constants) -> Float[Tensor, "sample unit"]:
        draws = uniforms(0, 0, BASELINE_SAMPLES, features.n_uniforms, stream=Stream.TASK)[0]
        return self.batch(features, constants, draws)[0]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _flat(module: nn.Module) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in _tensors(module).values()])
