"""Networks without a residual stream: autoencoders, quadratic neurons, multilayer perceptrons, unrolled decoders."""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from toysup.checks import InputError, check_flag, check_interval, check_whole
from toysup.models.base import (
    Activations,
    Initial,
    check_fits,
    check_sizes,
    constant,
    empty,
    normal,
    unit_rows,
    zeros,
)


class TiedAutoencoder(nn.Module):
    """x' = ReLU(W W^T x + b), W of shape (n_features, width): Elhage et al. 2022, "ReLU output model".

    `relu=False` is their linear model; `hidden_relu=True` their "ReLU hidden layer" model x' = ReLU(W ReLU(W^T x) + b),
    whose hidden layer has no bias ("Superposition in a privileged basis"). As in their notebook W starts as
    xavier_normal over (n_features, width), b at 0.
    """

    def __init__(self, n_in: int, n_out: int, *, width: int, relu: bool = True, hidden_relu: bool = False) -> None:
        super().__init__()
        width = _checked("TiedAutoencoder", n_in, n_out, width, relu=relu, hidden_relu=hidden_relu)
        if n_in != n_out:
            raise InputError(f"TiedAutoencoder: inputs and outputs must agree, got {n_in} and {n_out}")
        self.W, self.b = empty(n_in, width), empty(n_in)
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
        width = _checked("SquaredProjection", n_in, n_out, width)
        if n_out != 1:
            raise InputError(f"SquaredProjection: expected one output, got {n_out}")
        self.W, self.b = empty(n_in, width), empty(1)

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
        depth, flags = check_whole("MLP", "depth", depth), {"relu": relu, "hidden_bias": hidden_bias}
        width = _checked("MLP", n_in, n_out, width, depth, check_whole("MLP", "width", width), **flags)
        if open_start is not None:
            check_interval("MLP", "open_start", open_start, 0, open_low=True, one=True)
        sizes = [n_in] + [width] * depth
        self.weights = nn.ParameterList(empty(a, b) for a, b in itertools.pairwise(sizes))
        self.biases = nn.ParameterList(empty(width) for _ in range(depth * hidden_bias))
        self.W_out, self.b_out = empty(width, n_out), empty(n_out)
        self.relu, self.open_start = relu, open_start

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
        depth = check_whole("UnrolledDecoder", "depth", depth, at_least=0)
        width = _checked("UnrolledDecoder", n_in, n_out, width, depth, n_in, shared=shared)
        if n_in != n_out:
            raise InputError(f"UnrolledDecoder: inputs and outputs must agree, got {n_in} and {n_out}")
        self.W_E = empty(n_in, width)
        self.W_U = nn.ParameterList(empty(n_in, width) for _ in range(1 if shared else depth + 1))
        self.gain = nn.ParameterList(empty(1) for _ in range(depth + 1))
        self.b_out = nn.ParameterList(empty(n_in) for _ in range(depth + 1))

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


def _checked(
    where: str, n_in: int, n_out: int, width: int, depth: int | None = None, reads: int = 0, **flags: bool
) -> int:
    """The width as an int. InputError for sizes and flags that are none, and for a width, or a depth of layers of
    `reads` x width weights, that don't fit into memory."""
    check_sizes(where, n_in, n_out)
    width = check_whole(where, "width", width)
    for name, value in flags.items():
        check_flag(where, name, value)
    layers, sizes = (1, {}) if depth is None else (depth + 1, {"depth": depth})
    check_fits(where, width * (n_in + n_out + layers * reads), layers, width=width, **sizes)
    return width
