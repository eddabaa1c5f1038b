"""Cross-layer superposition: what several layers hold jointly that none of them holds alone.

For a set S of layers, F(S) is the number of features that one decoder of all their neurons recovers, held out, and the
excess is X(S) = F(S) - |union over l in S of what l recovers alone| (`toysup.sharing`). X > 0 alone says little:
more units tell more, and a network before training has an excess too. So the same numbers belong to untrained networks
and to single layers of as many neurons, `dealt` at random to as many parts.

A probe fitted for each feature is a free layer of neurons: random ReLU neurons are a universal AND as good as
one built on purpose, so that such probes find all pairs, and a large excess, in networks that have learned nothing. The
network's `own` readout knows only what it was trained to write: each feature is read along its own direction, from what
the neurons of S add to it, and only a gain and a threshold are fitted. For labels, one readout serves all facts.

Outputs of few inputs can also be thresholded from a linear copy of those: a + b > 1 is AND. `beyond` takes out of the
units, before they are read, what is affine in some variables (the inputs), so that only what was computed is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from toysup.checks import InputError, check_interval, check_whole
from toysup.ensemble import Trained
from toysup.measure.layers import Of, Target, called, label_logs, outputs, probed, units_of
from toysup.measure.participation import readout
from toysup.probes import Moments, ReluProbe, fit_ridge
from toysup.sharing import Decoded

__all__ = ["decode", "decode_labels", "own_weights"]

Sets = Iterable[Sequence[int]]
NOTHING = 1e-6  # of a unit's variance, below which what is left of it is rounding


def _plan(
    trained: Trained, sets: Sets, of: Of, parts: Sequence[Sequence[int]] | None
) -> tuple[tuple[tuple[int, ...], ...], list[list[int]]]:
    """(every part alone, then the other sets; the units of each)."""
    layers, size = units_of(trained, trained.batch(0, 1)[0], of).shape[2:]
    total = layers * size
    if parts is None:
        parts = np.arange(total).reshape(layers, -1).tolist()
    every = [unit for part in parts for unit in part]
    if not every or len(set(every)) < len(every) or not all(0 <= unit < total for unit in every):
        raise InputError(f"decode: parts must hold distinct units out of 0 .. {total - 1}")
    wanted = [(part,) for part in range(len(parts))]
    for one in sets:
        if not one or len(set(one)) < len(one) or not all(0 <= part < len(parts) for part in one):
            raise InputError(f"decode: a set holds distinct numbers in 0 .. {len(parts) - 1}, got {list(one)}")
        if tuple(one) not in wanted:
            wanted.append(tuple(one))
    return tuple(wanted), [[unit for part in one for unit in parts[part]] for one in wanted]


def own_weights(trained: Trained) -> Float[Tensor, "instance unit out"]:
    """What one of each neuron, of all blocks side by side, adds to each output: W_out times the readout."""
    to_outputs, rows = readout(trained), []
    for block in range(trained.setting.build().shape.depth):
        written = trained.parameters.get(f"W_out.{block}", trained.buffers.get(f"W_out.{block}"))
        rows.append(written @ to_outputs[:, : written.shape[-1]])
    return torch.cat(rows, 1)


class _Beyond:
    """Moments of all units, less what is affine in the last `known` columns, with the targets."""

    def __init__(self, moments: Moments, known: int) -> None:
        self.n, self.known = moments.n, known
        x, self.y, xx, xy, yy = (one / moments.n for one in moments.sums)
        xx, xy = xx - x.unsqueeze(-1) * x.unsqueeze(-2), xy - x.unsqueeze(-1) * self.y.unsqueeze(-2)
        units = xx.shape[-1] - known
        self.x, self.at = x[:, :units], x[:, units:]
        shared = xx[:, units:, :units]
        self.slopes = torch.linalg.pinv(xx[:, units:, units:], hermitian=True, rtol=1e-9) @ shared  # known unit
        self.second = xx[:, :units, :units] - self.slopes.mT @ shared
        whole = xx.diagonal(dim1=-2, dim2=-1)[:, :units]
        self.real = self.second.diagonal(dim1=-2, dim2=-1) > NOTHING * whole
        self.second = self.second * self.real.unsqueeze(-1) * self.real.unsqueeze(-2)
        self.crossed = (xy[:, :units] - self.slopes.mT @ xy[:, units:]) * self.real.unsqueeze(-1)
        self.variance = yy - self.y**2

    def left(self, units: Tensor) -> Tensor:
        """The units of one batch, centred and without what is affine in the known columns."""
        count = units.shape[-1] - self.known
        known = (units[..., count:] - self.at.unsqueeze(1)).float()
        rest = units[..., :count] - self.x.float().unsqueeze(1) - known @ self.slopes.float()
        return rest * self.real.unsqueeze(1)


class _Fit:
    """The ridge fit of some units, or the network's own weights times a gain, as `ReluProbe` wants it."""

    def __init__(self, shared: _Beyond, units: list[int], own: Tensor | None) -> None:
        self.shared, self.units, self.own = shared, units, own

    def fit(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        second, crossed = self.shared.second[:, self.units][:, :, self.units], self.shared.crossed[:, self.units]
        if self.own is None:
            weights = fit_ridge(second, crossed, self.shared.variance.clamp(min=0), self.shared.n)
        else:
            own = self.own[:, self.units].double()
            variance = (own * (second @ own)).sum(-2)
            gain = (own * crossed).sum(-2) / torch.where(variance > 0, variance, torch.inf)
            weights = own * gain.clamp(min=0).unsqueeze(-2)
        spread = (weights * (second @ weights)).sum(-2).clamp(min=0).sqrt()
        centred = torch.zeros_like(weights[:, :, 0])
        return tuple(one.float() for one in (weights, centred, self.shared.y, spread))


class _Together:
    """All sets with moments in common."""

    def __init__(self, trained: Trained, of: Of, columns: list[list[int]], beyond: Target | None, own: bool) -> None:
        self.trained, self.of, self.columns, self.beyond, self.own = trained, of, columns, beyond, own
        self.moments, self.known = Moments(), 0

    def units(self, x: Tensor, target: Tensor) -> Tensor:
        units = units_of(self.trained, x, self.of).flatten(2)
        if self.beyond is None:
            return units
        taken = called(self.trained, self.beyond, x, target)
        self.known = taken.shape[-1]
        return torch.cat([units, taken], -1)

    def add(self, units: Tensor, y: Tensor) -> None:
        self.moments.add(units, y)

    def probes(self, curved: bool) -> list[ReluProbe]:
        given, targets = own_weights(self.trained) if self.own else None, self.moments.sums[1].shape[-1]
        if self.own and given.shape[-1] != targets:
            raise InputError(f"decode: own wants one target for each of {given.shape[-1]} outputs, got {targets}")
        self.shared = _Beyond(self.moments, self.known)
        return [ReluProbe(_Fit(self.shared, one, given), curved) for one in self.columns]

    def read(self, units: Tensor) -> Iterator[Tensor]:
        left = self.shared.left(units)
        return (left[..., one] for one in self.columns)  # one at a time: sets can be many


def decode(
    trained: Trained,
    sets: Sets,
    *,
    of: Of = "neurons",
    parts: Sequence[Sequence[int]] | None = None,
    targets: Target = outputs,
    beyond: Target | None = None,
    own: bool = False,
    curved: bool = True,
    threshold: float = 0.5,
    batches: int = 8,
    scored: int = 16,
) -> Decoded:
    """Which targets are recovered from sets of layers jointly, and from each layer alone, for all instances at once.

    The probe of `decodable`: a ridge readout of all units of the set, or with `own` the network's own (a ResidualMLP's
    write and readout weights, times a gain of at least 0 for each output); then, with `curved`, a threshold. Fitted on
    `batches` * 1024 held-out draws and scored on `scored` * 1024 others. Moments are gathered once for all sets. A
    target that varies too seldom in either is unknown: its share is NaN, and it is in no count.

    Args:
        sets: of parts, by number; every part alone is added.
        of: neurons of all blocks after their nonlinearity, or the stream before and after each.
        parts: the units of each part, out of those of all layers side by side; by default a part is a layer.
        targets: as for `decodable`; with `own`, one for each output, in their order. A feature is recovered if its R^2
            exceeds `threshold`.
        beyond: like `targets`; variables whose affine functions are taken out of the units first (see above).

    Raises:
        InputError: parts or sets that are not there, or twice; a threshold outside [0, 1); `own` with the stream.
    """
    check_interval("decode", "threshold", threshold, 0, 1, open_high=True)
    if own and of != "neurons":
        raise InputError("decode: the network's own readout is for neurons; the stream is what it reads already")
    check_whole("decode", "batches", batches)
    check_whole("decode", "scored", scored)
    wanted, columns = _plan(trained, sets, of, parts)

    fit = _Together(trained, of, columns, beyond, own)
    errors, variance = probed(trained, fit, targets, curved, batches, scored)
    share = 1 - sum(error / scored for error in errors) / variance
    return Decoded(wanted, share, (share > threshold).unsqueeze(-1))


def decode_labels(
    trained: Trained,
    sets: Sets,
    *,
    of: Of = "neurons",
    parts: Sequence[Sequence[int]] | None = None,
    threshold: float = 0.5,
    most: int = 512,
) -> Decoded:
    """`decode` for Memory of one fact at a time: a fact is recovered if a probe fitted on other facts gives its label
    more than `threshold` (1/2 or more) of the probability; see `label_chances`, also for `most`."""
    check_interval("decode_labels", "threshold", threshold, 0.5, 1, open_high=True)
    wanted, columns = _plan(trained, sets, of, parts)

    def read(x: Tensor) -> list[Tensor]:
        units = units_of(trained, x, of).flatten(2)
        return [units[..., own] for own in columns]

    logs = label_logs(trained, read, most)
    n = logs.shape[-1]
    answers = (trained.constants["labels"].unsqueeze(-1) + torch.arange(n)) % n  # the true label first
    chances = logs.exp().gather(-1, answers.unsqueeze(1).expand(logs.shape))
    return Decoded(wanted, chances[..., 0], chances > threshold)
