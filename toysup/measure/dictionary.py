"""Are a dictionary's latents the features? Directions, firing, cost; all against known truth and on held-out draws.

Directions: each feature's own, from the task, against columns of the decoder; one-to-one matching is Hungarian, so that
a feature without a latent of its own is a miss, and chance is subtracted, since among many latents some are close to
anything. Firing: a latent is on where it is above 0, a feature where it is not 0.

A dictionary is any model that returns a `models.Code`, trained on `tasks.Reconstruction`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor, vmap
from torch.nn.functional import normalize

from toysup.checks import InputError
from toysup.ensemble import Trained, bound, one_thread
from toysup.measure.held_out import BATCH, GROUPS, Estimate, over_groups
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
SEEN = 12  # samples that both halves of a comparison need
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
    """Cosine of every feature's direction with every latent's; 0 where either is nothing."""
    if "latent_cosines" not in trained.kept:
        _check(trained)
        truth = trained.per_instance(lambda setting, constants: setting.task.directions(setting.features, constants))
        decoder = trained.forward(trained.batch(0, 1)[0]).decoder
        trained.kept["latent_cosines"] = normalize(truth, dim=-1) @ normalize(decoder, dim=-2)
    return trained.kept["latent_cosines"]


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
    """`mmcs` less that of as many random latents."""
    return mmcs(trained) - mmcs_floor(latent_cosines(trained).shape[-1], _width(trained))


def mcc_above_chance(trained: Trained) -> Float[Tensor, " instance"]:
    """`mcc` less that of as many random latents."""
    return mcc(trained) - mcc_floor(*latent_cosines(trained).shape[1:], _width(trained))


def _matched(values: Float[Tensor, "instance feature latent"]) -> tuple[Int[Tensor, "i f"], Float[Tensor, "i f"]]:
    """The one-to-one matching of largest sum: each feature's latent (-1: none) and its value (0)."""
    partner = torch.full(values.shape[:2], -1, dtype=torch.int64)
    found = torch.zeros(values.shape[:2])
    for number, one in enumerate(values):
        rows, columns = linear_sum_assignment(one.numpy(), maximize=True)
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

    `both` is (instance, feature, latent). `own` is the feature of which a latent's firing says most (largest F1), and
    `contrast` = P(latent | own, k) - P(latent | own, not k) for the other feature k of largest |contrast|, 0 where
    no pair was seen often enough. `l0`, `l1`, `error` and `explained` = h' . h, `squared` = |h'|^2 are means of groups
    of samples.
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

    @property
    def f1(self) -> Float[Tensor, "instance feature latent"]:
        """Harmonic mean of precision and recall of every latent for every feature; 0 where neither was ever on."""
        total = self.latent.unsqueeze(1) + self.feature.unsqueeze(2)
        return 2 * self.both / total.clamp(min=1)


def firing(trained: Trained) -> Firing:
    """Run every dictionary on its held-out stream, twice; kept with `trained` for the next measure."""
    if "firing" not in trained.kept:
        _check(trained)
        with torch.no_grad(), one_thread():
            trained.kept["firing"] = _fire(trained)
    return trained.kept["firing"]


def _fire(trained: Trained) -> Firing:
    setting = trained.setting

    def sample(values, constants, draws):
        here = bound(setting, values)
        return here.features.transform(draws) != 0, here.task.batch(here.features, constants, draws)[0]

    def drawn(number: int):
        draws = uniforms(trained.stack.data_seed, number, BATCH, setting.features.n_uniforms, stream=Stream.HELD_OUT)
        present, h = vmap(sample)(trained.values, trained.constants, draws)
        code = trained.forward(h)
        return present.float(), (code.latents > 0).float(), h, code

    latent, feature, both, pairs = 0.0, 0.0, 0.0, 0.0
    means = torch.zeros(5, GROUPS, len(trained))
    for number in range(BATCHES):
        present, on, h, code = drawn(number)
        latent, feature = latent + on.sum(1), feature + present.sum(1)
        both, pairs = both + present.mT @ on, pairs + present.mT @ present
        again, norm = code.reconstruction, code.decoder.norm(dim=1).unsqueeze(1)
        parts = [on.sum(-1), (code.latents * norm).sum(-1), (h - again).square().sum(-1), (h * again).sum(-1)]
        parts.append(again.square().sum(-1))
        means[:, number % GROUPS] += torch.stack(parts).mean(-1) * GROUPS / BATCHES
    partial = Firing(BATCHES * BATCH, latent, feature, both, None, None, *means)
    own = partial.f1.argmax(1)
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
    contrast = torch.where((with_other >= SEEN) & (without >= SEEN), contrast, 0.0).scatter(2, rows, 0.0)
    strongest = contrast.gather(2, contrast.abs().argmax(2, keepdim=True)).squeeze(2)
    return partial._replace(own=own, contrast=strongest)


class Latents(NamedTuple):
    """How many latents of each kind, (instance,) each; they add up to all.

    dead: never on. Of those about a feature (its own one is on in half of the cases in which it is, at least):
    composite_and / composite_and_not: on with the feature mostly where some other feature is on too / is off (a
    difference in probability of 1/2 at least); of the others, first: one for each feature that has any; split: the
    further ones. rest: on, but about no single feature.
    """

    dead: Int[Tensor, " instance"]
    composite_and: Int[Tensor, " instance"]
    composite_and_not: Int[Tensor, " instance"]
    first: Int[Tensor, " instance"]
    split: Int[Tensor, " instance"]
    rest: Int[Tensor, " instance"]


def latent_kinds(trained: Trained) -> Latents:
    """What the latents are; see `Latents`."""
    seen = firing(trained)
    live = seen.latent > 0
    precision = seen.both.gather(1, seen.own.unsqueeze(1)).squeeze(1) / seen.latent.clamp(min=1)
    about = live & (precision >= PRECISE)
    joint, lone = about & (seen.contrast >= CONTRAST), about & (seen.contrast <= -CONTRAST)
    plain = about & ~joint & ~lone
    count = torch.zeros_like(seen.feature).scatter_add(1, seen.own, plain.float())
    first = (count > 0).sum(1)
    return Latents((~live).sum(1), joint.sum(1), lone.sum(1), first, plain.sum(1) - first, (live & ~about).sum(1))


def dead_latents(trained: Trained) -> Int[Tensor, " instance"]:
    """Latents that were never on over 32,768 held-out samples."""
    return latent_kinds(trained).dead


def split_latents(trained: Trained) -> Int[Tensor, " instance"]:
    """Latents about a feature that another is about already."""
    return latent_kinds(trained).split


def composite_latents(trained: Trained) -> Int[Tensor, " instance"]:
    """Latents that are on for conjunctions, A&B or A&!B, of one feature with another."""
    kinds = latent_kinds(trained)
    return kinds.composite_and + kinds.composite_and_not


def _matched_share(trained: Trained, of: str) -> Float[Tensor, "instance feature"]:
    seen = firing(trained)
    partner, f1 = _matched(seen.f1)
    place = partner.clamp(min=0).unsqueeze(2)
    both = seen.both.gather(2, place).squeeze(2)
    latent = seen.latent.gather(1, partner.clamp(min=0))
    found = {"f1": f1, "precision": both / latent.clamp(min=1), "recall": both / seen.feature.clamp(min=1)}[of]
    found = torch.where(partner >= 0, found, 0.0)
    return torch.where(seen.feature > 0, found, torch.nan)


def feature_f1(trained: Trained) -> Float[Tensor, "instance feature"]:
    """F1 of each feature's activity by its latent in the one-to-one matching of largest sum of F1; 0 where it has none,
    NaN where it was never on."""
    return _matched_share(trained, "f1")


def feature_precision(trained: Trained) -> Float[Tensor, "instance feature"]:
    """P(feature on | its latent on), matched as in `feature_f1`."""
    return _matched_share(trained, "precision")


def feature_recall(trained: Trained) -> Float[Tensor, "instance feature"]:
    """P(latent on | its feature on), matched as in `feature_f1`."""
    return _matched_share(trained, "recall")


def mean_l0(trained: Trained) -> Estimate:
    """Latents on in a held-out sample, on average."""
    return over_groups(firing(trained).l0)


def mean_l1(trained: Trained) -> Estimate:
    """Sum over latents of z_j |D_j|, on average over held-out samples."""
    return over_groups(firing(trained).l1)


def reconstruction_error(trained: Trained) -> Estimate:
    """|h - h'|^2, summed over units, on average over held-out samples."""
    return over_groups(firing(trained).error)


def shrinkage(trained: Trained) -> Float[Tensor, " instance"]:
    """1 - E|h'|^2 / E[h' . h]: by how much reconstructions are too small, 0 where no rescaling would help.

    One less the relative reconstruction bias of Rajamanoharan et al. 2024, "Improving dictionary learning with gated
    sparse autoencoders", eq. 10. NaN where nothing is reconstructed.
    """
    seen = firing(trained)
    explained = seen.explained.mean(0)
    return torch.where(explained != 0, 1 - seen.squared.mean(0) / explained, torch.nan)
