"""What is trained: ordinary nn.Modules, each written for one instance, batch first.

A model is built as `Module(n_in, n_out, **own)`: the engine knows the sizes of input and output from the task. Called
with `record=True` it also returns its `Activations`. Any nn.Module with that constructor can be trained. One that
states its initial distribution in `initial()` is drawn for thousands of instances at once; one that doesn't is built
once for each instance under a torch seed of its own, so either way an instance's start never depends on its company.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from toysup.checks import InputError, check_interval, check_whole
from toysup.shapes import Shape

__all__ = [
    "MLP",
    "Activations",
    "ResidualMLP",
    "SquaredProjection",
    "TiedAutoencoder",
    "UnrolledDecoder",
    "UntiedAutoencoder",
    "normal",
    "unit_rows",
]

# name of a parameter or buffer -> map from uniforms of its shape, or the name of another that it starts equal to
Initial = dict[str, Callable[[Tensor], Tensor] | str]


class Activations(NamedTuple):
    """What a model computes on the way: hidden neurons after their nonlinearity, and the stream that layers write to.

    `neurons` is (batch, layer, neuron). `residual` is (batch, stream, width): the embedded input, then the stream after
    each block; in models without a residual stream the same as `neurons`.
    """

    neurons: Float[Tensor, "batch layer neuron"]
    residual: Float[Tensor, "batch stream width"]


def normal(std: float) -> Callable[[Tensor], Tensor]:
    """Initial values N(0, std^2)."""
    return lambda uniforms: std * torch.special.ndtri(uniforms)


def unit_rows(scale: float = 1.0) -> Callable[[Tensor], Tensor]:
    """Initial rows uniform on the sphere of radius `scale`."""
    return lambda uniforms: scale * nn.functional.normalize(torch.special.ndtri(uniforms), dim=-1)


def zeros(uniforms: Tensor) -> Tensor:
    """Initial values 0."""
    return torch.zeros_like(uniforms)


def ones(uniforms: Tensor) -> Tensor:
    """Initial values 1."""
    return torch.ones_like(uniforms)


def constant(value: float) -> Callable[[Tensor], Tensor]:
    """Initial values all the same."""
    return lambda uniforms: torch.full_like(uniforms, value)


def _empty(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape))


class TiedAutoencoder(nn.Module):
    """x' = ReLU(W W^T x + b), W of shape (n_features, width): Elhage et al. 2022, "ReLU output model".

    `relu=False` is their linear model; `hidden_relu=True` their "ReLU hidden layer" model x' = ReLU(W ReLU(W^T x) + b),
    whose hidden layer has no bias ("Superposition in a privileged basis"). As in their notebook W starts as
    xavier_normal over (n_features, width), b at 0.
    """

    def __init__(self, n_in: int, n_out: int, *, width: int, relu: bool = True, hidden_relu: bool = False) -> None:
        super().__init__()
        check_whole("TiedAutoencoder", "width", width)
        if n_in != n_out:
            raise InputError(f"TiedAutoencoder: inputs and outputs must agree, got {n_in} and {n_out}")
        self.W, self.b = _empty(n_in, width), _empty(n_in)
        self.relu, self.hidden_relu = relu, hidden_relu

    def initial(self) -> Initial:
        return {"W": normal(math.sqrt(2 / sum(self.W.shape))), "b": zeros}

    def forward(self, x: Float[Tensor, "batch feature"], record: bool = False):
        h = x @ self.W
        h = torch.relu(h) if self.hidden_relu else h
        output = h @ self.W.T + self.b
        output = torch.relu(output) if self.relu else output
        return (output, Activations(h.unsqueeze(-2), h.unsqueeze(-2))) if record else output


class SquaredProjection(nn.Module):
    """y' = |W^T x|^2 + b, one output: W of shape (n_features, width), quadratic neurons read with weight 1.

    The quadratic model of Scherlis et al. 2022, "Polysemanticity and Capacity in Neural Networks". The neurons are the
    squares of the `width` embedded coordinates. W starts as xavier_normal over (n_features, width), b at 0.
    """

    def __init__(self, n_in: int, n_out: int, *, width: int) -> None:
        super().__init__()
        check_whole("SquaredProjection", "width", width)
        if n_out != 1:
            raise InputError(f"SquaredProjection: expected one output, got {n_out}")
        self.W, self.b = _empty(n_in, width), _empty(1)

    def initial(self) -> Initial:
        return {"W": normal(math.sqrt(2 / sum(self.W.shape))), "b": zeros}

    def forward(self, x: Float[Tensor, "batch feature"], record: bool = False):
        h = x @ self.W
        neurons = h.square()
        output = neurons.sum(-1, keepdim=True) + self.b
        return (output, Activations(neurons.unsqueeze(-2), h.unsqueeze(-2))) if record else output


class MLP(nn.Module):
    """`depth` hidden layers of `width` ReLU neurons; y = ReLU(W_out h + b_out), or linear with `relu=False`.

    With depth 1, AbsoluteValue and `hidden_bias=False` it is the "computation in superposition" model of Elhage et al.
    2022, h = ReLU(W_1 x), y = ReLU(W_2 h + b). Weights start as N(0, 2 / fan_in) (He et al. 2015), the last layer's as
    xavier_normal; biases at zero.

    With `open_start` W_out starts as that number times |xavier_normal|, so that no output's ReLU is off at the start.
    Where inputs are sparse a ReLU that starts off stays off: with symmetric starts that is half of all outputs' sides.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        width: int,
        depth: int = 1,
        relu: bool = True,
        hidden_bias: bool = True,
        open_start: float | None = None,
    ) -> None:
        super().__init__()
        check_whole("MLP", "width", width)
        check_whole("MLP", "depth", depth)
        sizes = [n_in] + [width] * depth
        self.weights = nn.ParameterList(_empty(a, b) for a, b in itertools.pairwise(sizes))
        self.biases = nn.ParameterList(_empty(width) for _ in range(depth * hidden_bias))
        self.W_out, self.b_out = _empty(width, n_out), _empty(n_out)
        self.relu, self.open_start = relu, open_start
        check_interval("MLP", "open_start", 1.0 if open_start is None else open_start, 0, open_low=True)

    def initial(self) -> Initial:
        out = normal((self.open_start or 1.0) * math.sqrt(2 / sum(self.W_out.shape)))
        start = (lambda uniforms: out(uniforms).abs()) if self.open_start else out
        values: Initial = {"W_out": start, "b_out": zeros}
        for layer, weight in enumerate(self.weights):
            values[f"weights.{layer}"] = normal(math.sqrt(2 / weight.shape[0]))
        values |= {f"biases.{layer}": zeros for layer in range(len(self.biases))}
        return values

    def forward(self, x: Float[Tensor, "batch feature"], record: bool = False):
        hidden = []
        for weight, bias in itertools.zip_longest(self.weights, self.biases):
            x = torch.relu(x @ weight if bias is None else x @ weight + bias)
            hidden.append(x)
        output = x @ self.W_out + self.b_out
        output = torch.relu(output) if self.relu else output
        if not record:
            return output
        layers = torch.stack(hidden, -2)
        return output, Activations(layers, layers)


class ResidualMLP(nn.Module):
    """Embed into a stream of `shape.width` dimensions, add `shape.depth` blocks ReLU(r W_in + b) W_out, unembed.

    embedding: rows of W_E, one for each feature, "frozen" random or "trained". Rows are uniform on the sphere of radius
    `row_norm` (default 1). An integer input is a set of active features and is embedded as sum of rows / sqrt(K).
    unembedding: "tied" (W_E^T), "frozen" (its own random unit rows), "trained", or "coordinates": the first n_out
    coordinates of the stream times one trained gain. With "coordinates" the last block writes only those, so that every
    parameter is live (`Shape.live_parameters(read=n_out)`).
    blocks: "trained", or "frozen" as drawn: random features, of which only what else is trained can make use.
    `relu` adds a trained output bias and a ReLU, as in the autoencoders; without it the output is linear, without bias.

    W_in starts as N(0, 1 / d), W_out as N(0, 1 / (h L)), so that the stream's variance stays of order one at any depth.

    Where a frozen embedding is much wider than the hidden layers the stream is never formed: W_E W_in, W_out W_in,
    W_out W_U^T and W_E W_U^T are, once a batch, if that takes less than half the multiplications. It is the same
    function of the same parameters, and autograd goes on to W_in and W_out, so training is the same up to rounding. (To
    train those four products themselves would not be: Adam and weight decay depend on what the parameters are.) It does
    not pay for widths up to about h L, for small batches, or with `record`, which wants the stream.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        shape: Shape,
        embedding: Literal["frozen", "trained"] = "frozen",
        unembedding: Literal["tied", "frozen", "trained", "coordinates"] = "tied",
        blocks: Literal["trained", "frozen"] = "trained",
        row_norm: float = 1.0,
        relu: bool = False,
    ) -> None:
        super().__init__()
        if blocks not in ("trained", "frozen"):
            raise InputError(f"ResidualMLP: blocks must be trained or frozen, got {blocks!r}")
        if embedding not in ("frozen", "trained"):
            raise InputError(f"ResidualMLP: embedding must be frozen or trained, got {embedding!r}")
        if unembedding not in ("tied", "frozen", "trained", "coordinates"):
            raise InputError(
                f"ResidualMLP: unembedding must be tied, frozen, trained or coordinates, got {unembedding!r}"
            )
        if unembedding == "tied" and n_in != n_out:
            raise InputError(f"ResidualMLP: a tied unembedding needs equal inputs and outputs, got {n_in} and {n_out}")
        if unembedding == "coordinates" and n_out > shape.width:
            raise InputError(f"ResidualMLP: width must be at least the {n_out} coordinates read, got {shape.width}")
        self.shape, self.unembedding, self.blocks, self.row_norm = shape, unembedding, blocks, row_norm
        d, h, depth = shape.width, shape.hidden, shape.depth
        self.read = n_out if unembedding == "coordinates" else d
        listed = nn.ParameterList if blocks == "trained" else _Frozen
        self.W_in = listed(_empty(d, h) for _ in range(depth))
        self.b_in = listed(_empty(h) for _ in range(depth))
        self.W_out = listed(_empty(h, self.read if last else d) for last in _marks_last(depth))
        self._hold("W_E", torch.zeros(n_in, d), embedding == "trained")
        if unembedding in ("frozen", "trained"):
            self._hold("W_U", torch.zeros(n_out, d), unembedding == "trained")
        if unembedding == "coordinates":
            self.gain = _empty(1)
        self.b_out = _empty(n_out) if relu else None

    def _hold(self, name: str, value: Tensor, trained: bool) -> None:
        if trained:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    def initial(self) -> Initial:
        d, h, depth = self.shape.width, self.shape.hidden, self.shape.depth
        values: Initial = {"W_E": unit_rows(self.row_norm)}
        if self.unembedding in ("frozen", "trained"):
            values["W_U"] = unit_rows()
        if self.unembedding == "coordinates":
            values["gain"] = ones
        if self.b_out is not None:
            values["b_out"] = zeros
        for layer in range(depth):
            values[f"W_in.{layer}"] = normal(math.sqrt(1 / d))
            values[f"b_in.{layer}"] = zeros
            values[f"W_out.{layer}"] = normal(math.sqrt(1 / (h * depth)))
        return values

    def forward(self, x: Tensor, record: bool = False):
        if not record and x.is_floating_point() and self.folds(math.prod(x.shape[:-1])):
            return self._outputs(self._folded(x))
        if x.is_floating_point():
            stream = x @ self.W_E
        else:
            stream = self.W_E[x].sum(-2) / math.sqrt(x.shape[-1])
        hidden, streams = [], [stream]
        for w_in, b_in, w_out in zip(self.W_in, self.b_in, self.W_out, strict=True):
            neurons = torch.relu(stream @ w_in + b_in)
            written = neurons @ w_out
            unread = stream.shape[-1] - w_out.shape[-1]
            stream = stream + (nn.functional.pad(written, (0, unread)) if unread else written)
            hidden.append(neurons)
            streams.append(stream)
        if self.unembedding == "coordinates":
            output = stream[..., : self.read] * self.gain
        else:
            output = stream @ self._unembed.T
        output = self._outputs(output)
        if not record:
            return output
        neurons = torch.stack(hidden, -2) if hidden else stream.new_zeros(*stream.shape[:-1], 0, self.shape.hidden)
        return output, Activations(neurons, torch.stack(streams, -2))

    @property
    def _unembed(self) -> Tensor:
        return self.W_E if self.unembedding == "tied" else self.W_U

    def _outputs(self, output: Tensor) -> Tensor:
        return output if self.b_out is None else torch.relu(output + self.b_out)

    def folds(self, batch: int) -> bool:
        """Whether multiplying matrices first, then samples, takes less than half the multiplications at this batch.

        Half, because the matrices become more and smaller.
        """
        if self.unembedding == "coordinates" or "W_E" not in self._buffers:
            return False
        (n_in, d), n_out, h, depth = self.W_E.shape, len(self._unembed), self.shape.hidden, self.shape.depth
        layers, links = h * depth, h * h * depth * (depth - 1) // 2
        streamed = batch * d * (n_in + 2 * layers + n_out)
        products = d * (n_in * layers + links + layers * n_out + n_in * n_out)
        return 2 * (products + batch * products // d) < streamed

    def _folded(self, x: Tensor) -> Tensor:
        """The output before its bias, without the stream: each layer reads x and all layers below it directly."""
        output, below = x @ (self.W_E @ self._unembed.T), []
        for w_in, b_in, w_out in zip(self.W_in, self.b_in, self.W_out, strict=True):
            read = x @ (self.W_E @ w_in)
            for neurons, written in below:
                read = read + neurons @ (written @ w_in)
            below.append((torch.relu(read + b_in), w_out))
            output = output + below[-1][0] @ (w_out @ self._unembed.T)
        return output


class _Frozen(nn.Module):
    """A list of tensors that are not trained, under the names they have in a ParameterList."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        for number, tensor in enumerate(tensors):
            self.register_buffer(str(number), tensor.detach())

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._buffers.values())


def _marks_last(depth: int) -> list[bool]:
    return [layer == depth - 1 for layer in range(depth)]


class UntiedAutoencoder(ResidualMLP):
    """x' = ReLU(D(x W_E) W_U^T + b): trained encoder, `depth` residual decoder blocks, trained decoder.

    With depth 0 it is the untied form of the ReLU output model. The decoder starts equal to the encoder: from
    independent starts 7 to 30% of F_eff was missing at n = 32, p = 0.05 after 2,000 steps; from equal ones under 5%.
    """

    def __init__(self, n_in: int, n_out: int, *, width: int, depth: int = 0, hidden: int | None = None) -> None:
        super().__init__(
            n_in, n_out, shape=Shape(width, depth, hidden), embedding="trained", unembedding="trained", relu=True
        )
        if n_in != n_out:
            raise InputError(f"UntiedAutoencoder: inputs and outputs must agree, got {n_in} and {n_out}")

    def initial(self) -> Initial:
        return {**super().initial(), "W_U": "W_E"}


class UnrolledDecoder(nn.Module):
    """A trained linear code h = x W_E read by learned ISTA: x_0 = ReLU(g_0 h W_U0^T + b_0), then `depth` times
    x_t = ReLU(x_{t-1} + g_t (h - x_{t-1} W_E) W_Ut^T + b_t).

    Gregor & LeCun 2010, "Learning fast approximations of sparse coding" (their encoder, non-negative). What it has
    found stands in all n_features coordinates between two layers, where `UntiedAutoencoder` has `width`; at depth 0 the
    two are the same functions. `shared` gives all layers one W_U; the gains g_t (scalars) and biases are each layer's
    own.

    W_E starts as random unit rows and every W_U equal to it, g_0 at 1, g_t at (1 + sqrt(n / width))^-2, one over the
    largest eigenvalue of a random W_E^T W_E (Marchenko & Pastur 1967): the step of ISTA, at which it cannot run away.
    """

    def __init__(self, n_in: int, n_out: int, *, width: int, depth: int = 0, shared: bool = False) -> None:
        super().__init__()
        check_whole("UnrolledDecoder", "width", width)
        check_whole("UnrolledDecoder", "depth", depth, at_least=0)
        if n_in != n_out:
            raise InputError(f"UnrolledDecoder: inputs and outputs must agree, got {n_in} and {n_out}")
        self.W_E = _empty(n_in, width)
        self.W_U = nn.ParameterList(_empty(n_in, width) for _ in range(1 if shared else depth + 1))
        self.gain = nn.ParameterList(_empty(1) for _ in range(depth + 1))
        self.b_out = nn.ParameterList(_empty(n_in) for _ in range(depth + 1))

    def initial(self) -> Initial:
        n, width = self.W_E.shape
        step = (1 + math.sqrt(n / width)) ** -2
        values: Initial = {"W_E": unit_rows()} | {f"W_U.{layer}": "W_E" for layer in range(len(self.W_U))}
        values |= {f"gain.{layer}": constant(step if layer else 1.0) for layer in range(len(self.gain))}
        return values | {f"b_out.{layer}": zeros for layer in range(len(self.b_out))}

    def forward(self, x: Float[Tensor, "batch feature"], record: bool = False):
        """The features found; recorded: as neurons what each layer has found, as residual the code and what each layer
        has left of it, h - x_t W_E."""
        missed = code = x @ self.W_E
        found, layers, left = 0.0, [], [code]
        for layer, (gain, bias) in enumerate(zip(self.gain, self.b_out, strict=True)):
            read = self.W_U[min(layer, len(self.W_U) - 1)]
            found = torch.relu(found + gain * (missed @ read.T) + bias)
            if record or layer < len(self.gain) - 1:
                missed = code - found @ self.W_E
            layers.append(found)
            left.append(missed)
        return (found, Activations(torch.stack(layers, -2), torch.stack(left, -2))) if record else found
