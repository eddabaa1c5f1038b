"""Networks with a residual stream."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from toysup.checks import InputError, check_choice, check_flag, check_interval, check_kind
from toysup.models.base import (
    Activations,
    Initial,
    check_fits,
    check_sizes,
    empty,
    normal,
    ones,
    unit_rows,
    zeros,
)
from toysup.shapes import Shape


class ResidualMLP(nn.Module):
    """Embed into a stream of `shape.width` dimensions, add `shape.depth` blocks ReLU(r W_in + b) W_out, unembed.

    embedding: rows of W_E, one for each feature, "frozen" random or "trained". Rows are uniform on the sphere of radius
    `row_norm` (default 1). An integer input is a set of active features and is embedded as sum of rows / sqrt(K).
    unembedding: "tied" (W_E^T), "frozen" (its own random unit rows), "trained", or "coordinates": the first n_out
    coordinates of the stream times one trained gain. With "coordinates" the last block writes only those, so that every
    parameter is live (`Shape.live_parameters(read=n_out)`).
    blocks: "trained", or "frozen" as drawn: random features, of which only what else is trained can make use.
    `hidden_bias`: whether neurons have one (b = 0 otherwise; the general path trains those without).
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
        hidden_bias: bool = True,
        row_norm: float = 1.0,
        relu: bool = False,
    ) -> None:
        super().__init__()
        where = "ResidualMLP"
        check_sizes(where, n_in, n_out)
        check_kind(where, "shape", shape, Shape)
        check_choice(where, "blocks", blocks, ("trained", "frozen"))
        check_choice(where, "embedding", embedding, ("frozen", "trained"))
        check_choice(where, "unembedding", unembedding, ("tied", "frozen", "trained", "coordinates"))
        check_flag(where, "hidden_bias", hidden_bias)
        check_flag(where, "relu", relu)
        check_interval(where, "row_norm", row_norm, 0, open_low=True, one=True)
        weights = shape.parameters + shape.embedding_parameters(n_in, n_out)
        check_fits(where, weights, shape.depth, width=shape.width, depth=shape.depth, hidden=shape.hidden)
        if unembedding == "tied" and n_in != n_out:
            raise InputError(f"ResidualMLP: a tied unembedding needs equal inputs and outputs, got {n_in} and {n_out}")
        if unembedding == "coordinates" and n_out > shape.width:
            raise InputError(f"ResidualMLP: width must be at least the {n_out} coordinates read, got {shape.width}")
        self.shape, self.unembedding, self.blocks, self.row_norm = shape, unembedding, blocks, row_norm
        d, h, depth = shape.width, shape.hidden, shape.depth
        self.read = n_out if unembedding == "coordinates" else d
        listed = nn.ParameterList if blocks == "trained" else _Frozen
        self.W_in = listed(empty(d, h) for _ in range(depth))
        self.b_in = listed(empty(h) for _ in range(depth)) if hidden_bias else [0.0] * depth
        self.W_out = listed(empty(h, self.read if last else d) for last in _marks_last(depth))
        self._hold("W_E", torch.zeros(n_in, d), embedding == "trained")
        if unembedding in ("frozen", "trained"):
            self._hold("W_U", torch.zeros(n_out, d), unembedding == "trained")
        if unembedding == "coordinates":
            self.gain = empty(1)
        self.b_out = empty(n_out) if relu else None

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
            if not isinstance(self.b_in, list):
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
