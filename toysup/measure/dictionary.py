"""Are a dictionary's latents the features? Directions, firing, cost; all against known truth and on held-out draws.

Directions: each feature's own, from the task, against columns of the decoder; one-to-one matching is Hungarian, so that
a feature without a latent of its own is a miss, and chance is subtracted, since among many latents some are close to
anything. Firing: a latent is on where it is not 0, and so is a feature. What was on in fewer than SEEN of the samples
is not known: its scores are NaN.

A dictionary is any model that returns a `models.Code`, trained on `tasks.Reconstruction`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, vmap
from torch.nn.functional import normalize

from toysup.checks import InputError
from toysup.ensemble import Trained, bound, one_thread
from toysup.evidence import BATCH, GROUPS, Estimate, enough, over_groups
from toysup.models import L1, BatchTopK, JumpReLU, SparseAutoencoder, TopK
from toysup.random import Stream, uniforms
from toysup.tasks import Reconstruction
from toysup.theory import mcc_floor, mmcs_floor

__all__ = [
    "Firing",
    "Latents",
    "composite_latents",
    "dead_latents",
    "feature_f1",
    "feature_precision",
    "feature_recall",
    "firing",
    "latent_cosines",
    "latent_kinds",
    "matched_cosines",
    "mcc",
    "mcc_above_chance",
    "mean_l0",
    "mean_l1",
    "mmcs",
    "mmcs_above_chance",
    "reconstruction_error",
    "shrinkage",
    "split_latents",
    "weights_of",
]

BATCHES = 2 * GROUPS  # of 1024 held-out samples each
PAIRS = 12  # samples that both halves of a comparison need
CONTRAST = 0.5  # difference in P(latent on) that makes a latent a conjunction
PRECISE = 0.5  # least P(feature on | latent on) of a latent that is about the feature


def weights_of(trained: Trained) -> Float[np.ndarray, "instance number"]:
    """The weights of each trained network in one vector, as `Reconstruction(weights=...)` wants them."""
    tensors = {**trained.parameters, **trained.buffers}
    module = trained.setting.build()
    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    return torch.cat([tensors[name].flatten(1) for name in names], 1).numpy()


# --------------------------------------------------------------------------------------------------------- directions


def latent_cosines(trained: Trained) -> Float[Tensor, "instance feature latent"]:
    """Cosine of every feature's direction with every latent's; 0 where either is nothing.

    A latent's direction is its decoder's column. One that is below 0 at times adds that in both directions: it has the
    sign of E x_i z_j, so that a latent which says -x_i and writes the opposite of feature i's direction is right.
    """
    return trained.once(_latent_cosines)


def _latent_cosines(trained: Trained) -> Float[Tensor, "instance feature latent"]:
    _check(trained)
    truth = trained.per_instance(lambda setting, constants: setting.task.directions(setting.features, constants))
    decoder = trained.forward(trained.batch(0, 1)[0]).decoder
    cosines = normalize(truth, dim=-1) @ normalize(decoder, dim=-2)
    below, along = trained.once(_below)
    return torch.where(below.unsqueeze(1) & (along < 0), -cosines, cosines)


def matched_cosines(trained: Trained) -> Float[Tensor, "instance feature"]:
    """Each feature's cosine with its latent in the one-to-one matching of largest sum; 0 where it has none."""
    return _matched(latent_cosines(trained))[1].clamp(min=0)


def mmcs(trained: Trained) -> Float[Tensor, " instance"]:
    """Mean over features of the largest cosine with any latent (Sharkey, Braun & Millidge 2022), in [-1, 1]."""
    return latent_cosines(trained).amax(-1).mean(-1)


def mcc(trained: Trained) -> Float[Tensor, " instance"]:
    """Mean over features of `matched_cosines` (the mean correlation coefficient, of directions), in [0, 1]."""
    return matched_cosines(trained).mean(-1)


def mmcs_above_chance(trained: Trained) -> Float[Tensor, " instance"]:
    """`mmcs` less that of as many random latents; one that can be below 0 counts as two."""
    return mmcs(trained) - _floors(trained, lambda latents: mmcs_floor(latents, _width(trained)))


def mcc_above_chance(trained: Trained) -> Float[Tensor, " instance"]:
    """`mcc` less that of as many random latents; one that can be below 0 counts as two."""
    n = latent_cosines(trained).shape[1]
    return mcc(trained) - _floors(trained, lambda latents: mcc_floor(n, latents, _width(trained)))


def _floors(trained: Trained, floor: Callable[[int], float]) -> Float[Tensor, " instance"]:
    """What chance gives each instance, by how many directions its latents have."""
    cosines, below = latent_cosines(trained), trained.once(_below)[0]
    counts = (cosines.shape[-1] + below.sum(-1)).tolist()
    known = {count: floor(count) for count in set(counts)}
    return torch.tensor([known[count] for count in counts], dtype=cosines.dtype)


def _below(trained: Trained) -> tuple[Bool[Tensor, "instance latent"], Float[Tensor, "instance feature latent"]]:
    """Which latents are ever below 0 in held-out draws, and E x_i z_j there; nothing is drawn where none can be."""
    setting, module = trained.setting, trained.setting.build()
    n = setting.features.n_features
    if type(module) is SparseAutoencoder and type(module.sparsity) in (L1, TopK, BatchTopK, JumpReLU):
        latents = module.W_dec.shape[-1]
        below, along = torch.zeros(len(trained), latents, dtype=torch.bool), torch.zeros(len(trained), n, latents)
    else:

        def sample(values, constants, draws):
            here = bound(setting, values)
            return here.features.transform(draws), here.task.batch(here.features, constants, draws)[0]

        below, along = False, 0.0
        with torch.no_grad(), one_thread():
            for number in range(GROUPS):
                draws = _draws(trained, number)
                x, h = vmap(sample)(trained.values, trained.constants, draws)
                z = trained.forward(h).latents
                below, along = below | (z < 0).any(1), along + x.mT @ z / (GROUPS * BATCH)
    return below, along


def _draws(trained: Trained, number: int) -> Float[Tensor, "instance batch uniform"]:
    wanted = trained.setting.features.n_uniforms
    return uniforms(trained.stack.data_seed, number, BATCH, wanted, stream=Stream.HELD_OUT)


def _matched(values: Float[Tensor, "instance feature latent"]) -> tuple[Int[Tensor, "i f"], Float[Tensor, "i f"]]:
    """The one-to-one matching of largest sum: each feature's latent (-1: none) and its value (0). NaN for an instance
    with values that are not finite."""
    partner = torch.full(values.shape[:2], -1, dtype=torch.int64)
    found = values.new_zeros(values.shape[:2])
    for number, one in enumerate(values):
        if not one.isfinite().all():
            found[number] = torch.nan
            continue
        rows, columns = scipy.optimize.linear_sum_assignment(one.numpy(), maximize=True)
        partner[number, rows], found[number, rows] = torch.as_tensor(columns), one[rows, columns]
    return partner, found


def _width(trained: Trained) -> int:
    return trained.setting.task.n_inputs(trained.setting.features)


def _check(trained: Trained) -> None:
    if not isinstance(trained.setting.task, Reconstruction):
        raise InputError(f"dictionary: the task must be Reconstruction, got {type(trained.setting.task).__name__}")


# ------------------------------------------------------------------------------------------------------------- firing


class Firing(NamedTuple):
    """How often latents and features were on over 32,768 held-out samples, and what the dictionary cost.

    `both` is (instance, feature, latent). `own` is the feature of which a latent's firing says most (largest F1, among
    those that are known), and `contrast` = P(latent | own, k) - P(latent | own, not k) for the other feature k of
    largest |contrast|, 0 where no pair was seen often enough. `l0`, `l1`, `error` and `explained` = h' . h, `squared`
    = |h'|^2 are means of groups of samples; `shown` is in how many samples any feature was on.
    """

    samples: int
    latent: Float[Tensor, "instance latent"]
    feature: Float[Tensor, "instance feature"]
    both: Float[Tensor, "instance feature latent"]
    own: Int[Tensor, "instance latent"]
    contrast: Float[Tensor, "instance latent"]
    l0: Float[Tensor, "group instance"]
    l1: Float[Tensor, "group instance"]
    error: Float[Tensor, "group instance"]
    explained: Float[Tensor, "group instance"]
    squared: Float[Tensor, "group instance"]
    shown: Float[Tensor, " instance"]

    @property
    def known(self) -> Bool[Tensor, "instance feature"]:
        """Which features were on in samples enough."""
        return enough(self.feature, self.samples)

    @property
    def f1(self) -> Float[Tensor, "instance feature latent"]:
        """Harmonic mean of precision and recall of every latent for every feature; NaN for features not known."""
        total = self.latent.unsqueeze(1) + self.feature.unsqueeze(2)
        return torch.where(self.known.unsqueeze(2), 2 * self.both / total, torch.nan)


def firing(trained: Trained) -> Firing:
    """Run every dictionary on its held-out stream, twice; kept with `trained` for the next measure."""
    _check(trained)
    with torch.no_grad(), one_thread():
        return trained.once(_fire)


def _fire(trained: Trained) -> Firing:
    setting = trained.setting

    def sample(values, constants, draws):
        here = bound(setting, values)
        return here.features.transform(draws) != 0, here.task.batch(here.features, constants, draws)[0]

    def drawn(number: int):
        present, h = vmap(sample)(trained.values, trained.constants, _draws(trained, number))
        code = trained.forward(h)
        on = torch.where(code.latents.isnan(), torch.nan, (code.latents != 0).float())
        return present.float(), on, h, code

    latent, feature, both, pairs, shown = 0.0, 0.0, 0.0, 0.0, 0.0
    means = torch.zeros(5, GROUPS, len(trained))
    for number in range(BATCHES):
        present, on, h, code = drawn(number)
        latent, feature = latent + on.sum(1), feature + present.sum(1)
        both, pairs = both + present.mT @ on, pairs + present.mT @ present
        shown = shown + present.amax(-1).sum(1)
        again, norm = code.reconstruction, code.decoder.norm(dim=1).unsqueeze(1)
        parts = [on.sum(-1), (code.latents.abs() * norm).sum(-1), (h - again).square().sum(-1), (h * again).sum(-1)]
        parts.append(again.square().sum(-1))
        means[:, number % GROUPS] += torch.stack(parts).mean(-1) * GROUPS / BATCHES
    partial = Firing(BATCHES * BATCH, latent, feature, both, None, None, *means, shown)
    own = partial.f1.nan_to_num(-1.0).argmax(1)
    together = 0.0
    for number in range(BATCHES):
        present, on, *_ = drawn(number)
        mine = present.gather(2, own.unsqueeze(1).expand(-1, BATCH, -1))
        together = together + (on * mine).mT @ present  # (instance, latent, other feature)
    rows = own.unsqueeze(2)
    with_other = pairs.gather(1, rows.expand(-1, -1, pairs.shape[-1]))
    total, fired = feature.gather(1, own).unsqueeze(2), both.gather(1, own.unsqueeze(1)).mT
    without = total - with_other
    contrast = together / with_other.clamp(min=1) - (fired - together) / without.clamp(min=1)
    judged = ((with_other >= PAIRS) & (without >= PAIRS)).scatter(2, rows, False)
    contrast = torch.where(judged, contrast, 0.0)
    strongest = contrast.gather(2, contrast.abs().argmax(2, keepdim=True)).squeeze(2)
    return partial._replace(own=own, contrast=strongest)


class Latents(NamedTuple):
    """How many latents of each kind, (instance,) each; they add up to all.

    dead: never on. Of those about a feature (its own one is on in half of the cases in which it is, at least):
    composite_and / composite_and_not: on with the feature mostly where some other feature is on too / is off (a
    difference in probability of 1/2 at least, where the two were seen together often enough to tell); of the others,
    first: one for each feature that has any; split: the further ones. rest: on, but about no single feature. unknown:
    on in fewer than SEEN samples, or in an instance in which no feature was on in more, or that diverged.
    """

    dead: Int[Tensor, " instance"]
    composite_and: Int[Tensor, " instance"]
    composite_and_not: Int[Tensor, " instance"]
    first: Int[Tensor, " instance"]
    split: Int[Tensor, " instance"]
    rest: Int[Tensor, " instance"]
    unknown: Int[Tensor, " instance"]


def _about(seen: Firing) -> tuple[Bool[Tensor, "instance latent"], Bool[Tensor, "instance latent"]]:
    """(latents of which enough was seen to say what they are, if they were ever on, those that are about a feature)."""
    told = (seen.latent == 0) | enough(seen.latent, seen.samples)
    told = told & seen.known.any(1, keepdim=True)
    precision = seen.both.gather(1, seen.own.unsqueeze(1)).squeeze(1) / seen.latent
    return told, told & (precision >= PRECISE)


def latent_kinds(trained: Trained) -> Latents:
    """What the latents are; see `Latents`."""
    seen = firing(trained)
    told, about = _about(seen)
    live = seen.latent > 0
    joint, lone = about & (seen.contrast >= CONTRAST), about & (seen.contrast <= -CONTRAST)
    plain = about & ~joint & ~lone
    count = torch.zeros_like(seen.feature).scatter_add(1, seen.own, plain.float())
    first = (count > 0).sum(1)
    kinds = (told & ~live, joint, lone, told & live & ~about, ~told)
    dead, joint, lone, rest, unknown = (kind.sum(1) for kind in kinds)
    return Latents(dead, joint, lone, first, plain.sum(1) - first, rest, unknown)


def dead_latents(trained: Trained) -> Float[Tensor, " instance"]:
    """Latents that were never on over 32,768 held-out samples; NaN where no feature was on in enough of them."""
    return _count(trained, latent_kinds(trained).dead)


def split_latents(trained: Trained) -> Float[Tensor, " instance"]:
    """Latents about a feature that another is about already; NaN where no latent is known (`Latents`)."""
    return _count(trained, latent_kinds(trained).split)


def composite_latents(trained: Trained) -> Float[Tensor, " instance"]:
    """Latents that were seen to be on for conjunctions, A&B or A&!B, of one feature with another, of pairs that
    samples enough tell apart (`Firing.contrast`); NaN where no latent is known."""
    kinds = latent_kinds(trained)
    return _count(trained, kinds.composite_and + kinds.composite_and_not)


def _count(trained: Trained, count: Int[Tensor, " instance"]) -> Tensor:
    """Whole numbers; where there is one that isn't known, NaN, they are floats."""
    known = _about(firing(trained))[0].any(1)
    return count if known.all() else torch.where(known, count.float(), torch.nan)


def _matched_share(trained: Trained, of: str) -> Float[Tensor, "instance feature"]:
    seen = firing(trained)
    partner, f1 = _matched(torch.where(seen.known.unsqueeze(2), seen.f1, 0.0))  # the unknown take nobody's latent
    place = partner.clamp(min=0).unsqueeze(2)
    both = seen.both.gather(2, place).squeeze(2)
    latent = seen.latent.gather(1, partner.clamp(min=0))
    precision = torch.where(enough(latent, seen.samples), both / latent, torch.nan)
    found = {"f1": f1, "precision": precision, "recall": both / seen.feature}[of]
    found = torch.where((partner >= 0) | f1.isnan(), found, 0.0)
    return torch.where(seen.known & ~f1.isnan(), found, torch.nan)


def feature_f1(trained: Trained) -> Float[Tensor, "instance feature"]:
    """F1 of each feature's activity by its latent in the one-to-one matching of largest sum of F1; 0 where it has none,
    NaN where it was on in fewer than SEEN samples."""
    return _matched_share(trained, "f1")


def feature_precision(trained: Trained) -> Float[Tensor, "instance feature"]:
    """P(feature on | its latent on), matched as in `feature_f1`; NaN, too, where the latent was on in fewer than SEEN
    samples."""
    return _matched_share(trained, "precision")


def feature_recall(trained: Trained) -> Float[Tensor, "instance feature"]:
    """P(latent on | its feature on), matched as in `feature_f1`."""
    return _matched_share(trained, "recall")


def mean_l0(trained: Trained) -> Estimate:
    """Latents on, not 0, in a held-out sample, on average; the error is NaN where too few samples showed a feature."""
    return _mean(trained, "l0")


def mean_l1(trained: Trained) -> Estimate:
    """Sum over latents of |z_j| |D_j|, on average over held-out samples; its error as in `mean_l0`."""
    return _mean(trained, "l1")


def reconstruction_error(trained: Trained) -> Estimate:
    """|h - h'|^2, summed over units, on average over held-out samples; its error as in `mean_l0`."""
    return _mean(trained, "error")


def _mean(trained: Trained, of: str) -> Estimate:
    seen = firing(trained)
    value, error = over_groups(getattr(seen, of))
    return Estimate(value, torch.where(enough(seen.shown, seen.samples), error, torch.nan))


def shrinkage(trained: Trained) -> Float[Tensor, " instance"]:
    """1 - E|h'|^2 / E[h' . h]: by how much reconstructions are too small, 0 where no rescaling would help.

    One less the relative reconstruction bias of Rajamanoharan et al. 2024, "Improving dictionary learning with gated
    sparse autoencoders", eq. 10. NaN where nothing is reconstructed, or too few samples showed a feature.
    """
    seen = firing(trained)
    explained = seen.explained.double().mean(0)
    known = (explained != 0) & enough(seen.shown, seen.samples)
    return torch.where(known, 1 - seen.squared.double().mean(0) / explained, torch.nan).to(seen.squared.dtype)
