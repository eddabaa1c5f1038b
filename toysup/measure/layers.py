"""What can be read from the layers of a network, one or several of them, by probes that cannot memorise.

A probe is linear and is fitted on some held-out draws and scored on others. Where a target is a function of few inputs,
a rich enough layer gives it away without having computed it, so the same probe belongs on the network before training
(`trained.at(0)`) as the control. Labels of facts are arbitrary, and no rule leads from one fact to another: there the
probe is fitted on half of the facts and scored on the other half, and can only find what the network itself wrote in
one place for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, vmap

from toysup.checks import InputError, check_whole
from toysup.ensemble import Trained, bound, one_thread
from toysup.evidence import BATCH, GROUPS, Estimate, Evidence, over_groups
from toysup.probes import Moments, ReluProbe, fit_softmax, predict_softmax
from toysup.setting import Setting
from toysup.tasks import Circuit, Memory

__all__ = [
    "Fit",
    "Of",
    "Target",
    "called",
    "decodable",
    "decodable_by_layer",
    "gates",
    "inputs",
    "label_chances",
    "label_chances_by_layer",
    "outputs",
    "probed",
]

Of = Literal["neurons", "stream"]
Target = Callable[[Setting, dict[str, Tensor], Tensor, Tensor], Tensor]  # of one instance: (batch, target)

LABEL_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # of standardised units


def outputs(setting: Setting, constants: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
    """Targets for `decodable`: what the task asks for."""
    return target


def inputs(setting: Setting, constants: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
    """Targets for `decodable`: the features themselves."""
    return x


def gates(setting: Setting, constants: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
    """Targets for `decodable`: every gate of every circuit, circuit by circuit in the order of `Circuit.gates`."""
    if not isinstance(setting.task, Circuit):
        raise InputError(f"gates: the task must be Circuit, got {type(setting.task).__name__}")
    return setting.task.gates(x, constants).flatten(-2)


# ------------------------------------------------------------------------------------------------------------- layers


def units_of(trained: Trained, x: Tensor, of: Of) -> Float[Tensor, "instance batch layer unit"]:
    """What the units of every layer are on inputs x: neurons, or the stream before and after each block."""
    if of not in ("neurons", "stream"):
        raise InputError(f"layers: of must be neurons or stream, got {of!r}")
    recorded = trained.forward(x, record=True)[1]
    return recorded.neurons if of == "neurons" else recorded.residual


def _layers(trained: Trained, of: Of) -> int:
    """How many layers there are to read."""
    return units_of(trained, trained.batch(0, 1)[0], of).shape[-2]


def _sets(trained: Trained, layers: Iterable[Sequence[int]], of: Of) -> list[list[int]]:
    count, sets = _layers(trained, of), [list(one) for one in layers]
    for one in sets:
        if not one or len(set(one)) < len(one) or not all(0 <= layer < count for layer in one):
            raise InputError(f"layers: expected distinct numbers in 0 .. {count - 1} for {of}, got {one}")
    return sets


def _read(trained: Trained, x: Tensor, sets: list[list[int]], of: Of) -> list[Float[Tensor, "instance batch unit"]]:
    """The units of each set of layers, side by side."""
    units = units_of(trained, x, of)
    return [units[:, :, one].flatten(2) for one in sets]


# ------------------------------------------------------------------------------------------------------------ numbers


def called(trained: Trained, function: Target, x: Tensor, target: Tensor) -> Float[Tensor, "instance batch value"]:
    """A function of each instance's own batch."""

    def one(values, constants, x, target):
        return function(bound(trained.setting, values), constants, x, target)

    return vmap(one)(trained.values, trained.constants, x, target).to(torch.float32)


class Fit(Protocol):
    """How probes get at the units they read: all that `probed` leaves open."""

    def units(self, x: Tensor, target: Tensor) -> Any:
        """What a batch of inputs gives the probes."""

    def add(self, units: Any, y: Tensor) -> None:
        """Gather moments of a batch."""

    def probes(self, curved: bool) -> list[ReluProbe]:
        """The probes, fitted to the moments."""

    def read(self, units: Any) -> Iterable[Float[Tensor, "instance batch unit"]]:
        """The units of each probe."""


def probed(
    trained: Trained, fit: Fit, targets: Target, curved: bool, batches: int, scored: int
) -> tuple[list[Float[Tensor, "instance probe target"]], Float[Tensor, "instance 1 target"]]:
    """Probes fitted on `batches` * 1024 held-out draws and scored on `scored` * 1024 others.

    Returns their squared errors, for each of the `scored` batches, and the variance of the targets there: NaN for a
    target that varies too seldom, in those or in the others, to be known.
    """

    def draw(number: int) -> tuple[Any, Tensor]:
        x, target = trained.batch(number, BATCH)
        return fit.units(x, target), called(trained, targets, x, target)

    with torch.no_grad(), one_thread():
        fitted, seen = Evidence(), Evidence()
        for number in range(batches):
            units, y = draw(number)
            fitted.add(y)
            fit.add(units, y)
        probes = fit.probes(curved)
        for number in range(batches if curved else 0):
            units, y = draw(number)
            for probe, own in zip(probes, fit.read(units), strict=True):
                probe.calibrate(own, y)
        for probe in probes if curved else []:
            probe.settle()
        squared, mean, errors = 0.0, 0.0, []
        for number in range(batches, batches + scored):
            units, y = draw(number)
            seen.add(y)
            read = zip(probes, fit.read(units), strict=True)
            errors.append(torch.stack([(probe.predict(own) - y).square().mean(1) for probe, own in read], 1))
            squared, mean = squared + y.square().mean(1) / scored, mean + y.mean(1) / scored
    variance = squared - mean * mean
    known = (variance > 1e-12) & fitted.known() & seen.known()
    return errors, torch.where(known, variance, torch.nan).unsqueeze(1)


class _Apart:
    """Each set of layers with moments of its own."""

    def __init__(self, trained: Trained, sets: list[list[int]], of: Of) -> None:
        self.trained, self.sets, self.of = trained, sets, of
        self.moments = [Moments() for _ in sets]

    def units(self, x: Tensor, target: Tensor) -> list[Tensor]:
        return _read(self.trained, x, self.sets, self.of)

    def add(self, units: list[Tensor], y: Tensor) -> None:
        for moments, own in zip(self.moments, units, strict=True):
            moments.add(own, y)

    def probes(self, curved: bool) -> list[ReluProbe]:
        return [ReluProbe(moments, curved) for moments in self.moments]

    def read(self, units: list[Tensor]) -> list[Tensor]:
        return units


def _scores(trained: Trained, sets: list[list[int]], of: Of, targets: Target, curved: bool, batches: int) -> Estimate:
    """Held-out R^2 of every target from every set, (instance, set, target)."""
    check_whole("decodable", "batches", batches, 1)
    errors, variance = probed(trained, _Apart(trained, sets, of), targets, curved, batches, GROUPS)
    return over_groups(1 - torch.stack(errors) / variance)


def decodable(
    trained: Trained,
    layers: Sequence[int],
    *,
    of: Of = "stream",
    targets: Target = outputs,
    curved: bool = True,
    batches: int = 16,
) -> Estimate:
    """Held-out R^2 of each target read from some layers jointly, (instance, target): at most 1, about 0 by chance.

    A ridge readout z (`fit_ridge`) of all units of these layers, fitted on `batches` * 1024 held-out draws and scored
    on 16 * 1024 others, against the variance there. With `curved` it is followed by a + b ReLU(z - t), b >= 0, fitted
    on the same draws. A linear readout of d units has a sum of R^2 of at most d over uncorrelated targets, however
    sparse they are; the threshold takes interference off, as networks' own ReLU outputs do. The standard error is that
    of the scoring draws. NaN for a target that varies too seldom, in those or in the others, to be known.

    Args:
        layers: numbers of blocks from 0 for neurons (after their nonlinearity); for the stream 0 is the embedded input
            and l what it is after l blocks.
        targets: (setting, constants, x, target) of one instance and batch -> (batch, target): `outputs`, `inputs`,
            `gates` or your own.

    Raises:
        InputError: layers that are not there, or none.
    """
    found = _scores(trained, _sets(trained, [layers], of), of, targets, curved, batches)
    return Estimate(found.value[:, 0], found.error[:, 0])


def decodable_by_layer(
    trained: Trained, *, of: Of = "stream", targets: Target = outputs, curved: bool = True, batches: int = 16
) -> Estimate:
    """`decodable` from each layer alone, (instance, layer, target), at the cost of one."""
    sets = [[layer] for layer in range(_layers(trained, of))]
    return _scores(trained, sets, of, targets, curved, batches)


# ------------------------------------------------------------------------------------------------------------- labels


def label_logs(
    trained: Trained, read: Callable[[Tensor], list[Tensor]], most: int
) -> Float[Tensor, "instance set fact label"]:
    """Log-probabilities of every label for every fact, from each of several sets of units, as `label_chances` finds
    them. `read` gives the units of each set, (instance, batch, unit), for an input; facts that never occur have NaN."""
    setting = trained.setting
    if not isinstance(setting.task, Memory) or setting.features.n_active != 1:
        raise InputError(f"label_chances: the task must be Memory of one fact at a time, got {setting.task}")
    n = setting.features.n_features
    if n < 8:
        raise InputError(f"label_chances: expected at least 8 facts, got {n}")
    check_whole("label_chances", "most", most, 8)
    labels = trained.constants["labels"]
    occurs = trained.per_instance(lambda setting, _: setting.features.activity.expand(n) > 0)
    facts = torch.arange(n)
    with torch.no_grad(), one_thread():
        sets = read(facts.expand(len(trained), -1).unsqueeze(-1))
        logs = torch.zeros(len(trained), len(sets), n, setting.task.n_labels)
        for number, units in enumerate(sets):
            for half in range(2):
                mine = (facts % 2 == half) & (facts < 2 * most)
                ours, check, other = mine & (facts % 8 < 6), mine & (facts % 8 >= 6), facts % 2 != half
                logs[:, number, other] = _transfer(units, labels, occurs, ours, check, other, setting.task.n_labels)
    return torch.where(occurs[:, None, :, None], logs, torch.nan)


def _transfer(units, labels, occurs, ours, check, other, n_labels) -> Float[Tensor, "instance fact label"]:
    """Log-probabilities of the labels of `other` facts from a probe of `ours` and `check`, which set its penalty."""
    weight = occurs.to(units.dtype)
    fitted = ours | check
    total = (weight * fitted).sum(1)[:, None, None]
    mean = (units * (weight * fitted).unsqueeze(-1)).sum(1, keepdim=True) / total
    spread = ((units - mean).square() * (weight * fitted).unsqueeze(-1)).sum(1, keepdim=True) / total
    units = (units - mean) / spread.sqrt().clamp(min=1e-6)

    def logs(penalty: float, fit: Tensor, on: Tensor) -> Tensor:
        B = fit_softmax(units[:, fit], labels[:, fit], n_labels, penalty, weight[:, fit])
        return predict_softmax(B, units[:, on])

    def score(penalty: float) -> Tensor:
        own = logs(penalty, ours, check).gather(-1, labels[:, check].unsqueeze(-1)).squeeze(-1)
        return (own * weight[:, check]).sum(1)

    best = torch.stack([score(k) for k in LABEL_PENALTIES]).argmax(0)
    found = torch.zeros(len(units), int(other.sum()), n_labels)
    for k in best.unique().tolist():
        found = torch.where((best == k)[:, None, None], logs(LABEL_PENALTIES[k], fitted, other), found)
    return found


def _label_chances(trained: Trained, sets: list[list[int]], of: Of, most: int) -> Float[Tensor, "instance set fact"]:
    logs = label_logs(trained, lambda x: _read(trained, x, sets, of), most)
    return logs.exp().gather(-1, trained.constants["labels"][:, None, :, None].expand(*logs.shape[:3], 1)).squeeze(-1)


def label_chances(
    trained: Trained, layers: Sequence[int], *, of: Of = "stream", most: int = 1024
) -> Float[Tensor, "instance fact"]:
    """The probability that a readout of some layers, fitted on half of the facts, gives the label of each other fact.

    A multinomial logistic probe, the same for all facts, is fitted on the facts of even number and read on the odd
    ones, and the other way round; its penalty is the one of LABEL_PENALTIES that does best on a quarter of those it is
    fitted on. Labels of different facts are independent, so from the key, or from any function of it that knows no
    label, nothing transfers, and the chance is about 1 / n_labels. What transfers is what the network wrote for all
    facts in the same place. 1 + ln(chance) / ln(n_labels), averaged over facts, is their share in bits.

    At most `most` facts are fitted to, so that networks with many facts do not get better probes than those with few;
    they should be several times the probe's n_labels * (units + 1) numbers, or it finds less than there is. NaN for
    facts that never occur.

    Raises:
        InputError: the task is not Memory with one active fact, or has fewer than 8; layers that are not there.
    """
    return _label_chances(trained, _sets(trained, [layers], of), of, most)[:, 0]


def label_chances_by_layer(
    trained: Trained, *, of: Of = "stream", most: int = 1024
) -> Float[Tensor, "instance layer fact"]:
    """`label_chances` from each layer alone."""
    return _label_chances(trained, [[layer] for layer in range(_layers(trained, of))], of, most)
