"""Which blocks of a residual network take part in each feature: exact attribution and ablation.

The stream is the sum of the embedded input and of what every block writes, and the readout is linear: so an output is
the sum of exact contributions. Ablation also counts what later blocks make of a block, and can count it twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from toysup.checks import InputError, check_whole
from toysup.ensemble import Trained, one_thread
from toysup.evidence import BATCH, Evidence
from toysup.models import ResidualMLP
from toysup.tasks import Memory

__all__ = [
    "ablated",
    "ablation_drops",
    "attribution",
    "contributions",
    "readout",
]

How = Literal["zero", "mean", "resample"]


def _tensors(trained: Trained) -> tuple[ResidualMLP, dict[str, Tensor]]:
    module = trained.setting.build()
    if not isinstance(module, ResidualMLP):
        raise InputError(f"participation: the model must be a ResidualMLP, got {type(module).__name__}")
    return module, {**trained.parameters, **trained.buffers}


def readout(trained: Trained) -> Float[Tensor, "instance width out"]:
    """The linear map from the stream to the outputs (before a bias and ReLU, where the model has those)."""
    module, own = _tensors(trained)
    if module.unembedding == "coordinates":
        gain = own["gain"]
        return gain.unsqueeze(-1) * torch.eye(module.shape.width, module.read, dtype=gain.dtype)
    return own["W_E" if module.unembedding == "tied" else "W_U"].mT


def contributions(trained: Trained, x: Tensor) -> Float[Tensor, "instance batch source out"]:
    """What each source adds to each output: source 0 is the embedded input, source l the l-th block (from 1).

    Exact: they sum to the output, or, in a model with `relu`, to what its bias and ReLU are applied to.
    """
    _tensors(trained)
    stream = trained.forward(x, record=True)[1].residual
    written = torch.cat([stream[:, :, :1], stream.diff(dim=2)], 2)
    return torch.einsum("ibsw,iwo->ibso", written, readout(trained))


def ablated(
    trained: Trained, x: Tensor, blocks: Iterable[int], how: How = "zero"
) -> Float[Tensor, "instance batch out"]:
    """Outputs where the neurons of some blocks (from 0) are replaced, and all other blocks compute with what they get.

    how: "zero"; "mean", a neuron's own mean over this batch; or "resample", what the block's neurons were in the intact
    network for another sample, the previous of the batch. InputError for blocks that are not there.
    """
    module, own = _tensors(trained)
    blocks, depth = set(blocks), module.shape.depth
    if how not in ("zero", "mean", "resample"):
        raise InputError(f"ablated: how must be zero, mean or resample, got {how!r}")
    if not all(0 <= block < depth for block in blocks):
        raise InputError(f"ablated: blocks must lie in 0 .. {depth - 1}, got {sorted(blocks)}")
    with torch.no_grad(), one_thread():
        recorded = trained.forward(x, record=True)[1]
        stream = recorded.residual[:, :, 0]
        for block in range(depth):
            neurons = recorded.neurons[:, :, block]
            if block not in blocks:
                neurons = stream @ own[f"W_in.{block}"]
                if f"b_in.{block}" in own:
                    neurons = neurons + own[f"b_in.{block}"].unsqueeze(1)
                neurons = torch.relu(neurons)
            elif how == "resample":
                neurons = neurons.roll(1, 1)
            else:
                neurons = neurons.mean(1, keepdim=True).expand_as(neurons) * (how == "mean")
            written = neurons @ own[f"W_out.{block}"]
            stream = stream + torch.nn.functional.pad(written, (0, stream.shape[-1] - written.shape[-1]))
        output = stream @ readout(trained)
    return torch.relu(output + own["b_out"].unsqueeze(1)) if "b_out" in own else output


def _facts(trained: Trained) -> Tensor:
    """Every fact once, as an input (instance, fact, 1)."""
    if trained.setting.features.n_active != 1:
        raise InputError("participation: Memory of one fact at a time is wanted, got several")
    n = trained.setting.features.n_features
    return torch.arange(n).expand(len(trained), n).unsqueeze(-1)


def _offered(trained: Trained, values: Float[Tensor, "instance layer fact"]) -> Float[Tensor, "instance layer fact"]:
    """The values of facts that occur, NaN for the others, which nobody was to learn."""
    n = trained.setting.features.n_features
    occurs = trained.per_instance(lambda setting, _: setting.features.activity.expand(n) > 0)
    return torch.where(occurs.unsqueeze(1), values, torch.nan)


def attribution(trained: Trained, *, batches: int = 8) -> Float[Tensor, "instance source feature"]:
    """a_il: what source l (0 the embedded input, then the blocks) contributes to the right answer for feature i.

    Regression: Cov(contribution, y_i) / Var(y_i) over `batches` * 1024 held-out draws, which sums over sources to the
    slope of the output on its target, 1 where it is right. Memory of one fact at a time: the right label's logit above
    the mean of all labels, which sums to that of the output. NaN for a fact that never occurs, and for a target that
    varies too seldom in the draws to be known.
    """
    check_whole("attribution", "batches", batches)
    with torch.no_grad(), one_thread():
        if isinstance(trained.setting.task, Memory):
            added = contributions(trained, _facts(trained))  # instance fact source label
            labels = trained.constants["labels"][:, :, None, None].expand(*added.shape[:3], 1)
            return _offered(trained, (added.gather(-1, labels).squeeze(-1) - added.mean(-1)).mT)
        together, alone, mean, squared, evidence = 0.0, 0.0, 0.0, 0.0, Evidence()
        for number in range(batches):
            x, y = trained.batch(number, BATCH)
            evidence.add(y)
            added = contributions(trained, x)
            together = together + torch.einsum("ibso,ibo->iso", added, y) / BATCH / batches
            alone, mean = alone + added.mean(1) / batches, mean + y.mean(1) / batches
            squared = squared + y.square().mean(1) / batches
        variance = squared - mean * mean
        variance = torch.where((variance > 1e-12) & evidence.known(), variance, torch.nan)
        return (together - alone * mean.unsqueeze(1)) / variance.unsqueeze(1)


def ablation_drops(trained: Trained, how: How = "zero", *, batches: int = 8) -> Float[Tensor, "instance block feature"]:
    """a_il: how far R^2 of feature i falls when block l alone is ablated, on `batches` * 1024 held-out draws.

    Each output is given the gain and level that suit the intact network there (1 and 0 for one trained on squares), so
    that constructions, whose outputs are not calibrated, can be measured too. For Memory of one fact at a time, how far
    the probability of a fact's label falls. Negative where ablation helps; NaN where `attribution` is.
    """
    check_whole("ablation_drops", "batches", batches)
    blocks = range(_tensors(trained)[0].shape.depth)
    with torch.no_grad(), one_thread():
        if isinstance(trained.setting.task, Memory):
            x, labels = _facts(trained), trained.constants["labels"].unsqueeze(-1)

            def chance(blocks: Iterable[int]) -> Tensor:
                return ablated(trained, x, blocks, how).softmax(-1).gather(-1, labels).squeeze(-1)

            whole = chance([])
            return _offered(trained, torch.stack([whole - chance([block]) for block in blocks], 1))
        drawn = [trained.batch(number, BATCH) for number in range(batches)]
        sums, evidence = 0.0, Evidence()
        for x, y in drawn:
            evidence.add(y)
            out = ablated(trained, x, [])
            sums = sums + torch.stack([out, y, out * out, out * y, y * y]).mean(2) / batches
        out, y, out_out, out_y, y_y = sums.unbind(0)
        varied = out_out - out * out
        gain = torch.where(varied > 1e-12, (out_y - out * y) / varied, 0.0)  # what never varies has none
        gain = torch.where(varied.isnan(), torch.nan, gain)
        level, variance = y - gain * out, y_y - y * y

        def error(x: Tensor, y: Tensor, blocks: Iterable[int]) -> Tensor:
            off = ablated(trained, x, blocks, how) * gain.unsqueeze(1) + level.unsqueeze(1) - y
            return off.square().mean(1) / batches

        rise = [sum(error(x, y, [block]) - error(x, y, []) for x, y in drawn) for block in blocks]
        known = (variance > 1e-12) & evidence.known()
        return torch.stack(rise, 1) / torch.where(known, variance, torch.nan).unsqueeze(1)
