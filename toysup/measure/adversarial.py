"""How much an adversary of bounded L2 norm can add to the loss of a tied autoencoder (Elhage et al. 2022, "Relationship
to Adversarial Robustness").

The attack on one sample x is the perturbation d, |d| <= radius, that maximises |relu(W W^T (x + d) + b) - y|^2, squares
weighted by importance. The paper does not say whether the target y moves with the attack. Here it stays x: if it
moved, a network without superposition would copy the paper's attack and lose nothing, and the paper's ratio would have
a zero denominator. `moves` makes it y = x + d, and then features that the network ignores can be attacked too.

Inside a linear region of the network the loss is a convex quadratic, whose maximum over a ball is found exactly
(`ball_maximum`). Which region is best is combinatorial, so three attackers compete, and each is a lower bound:

    feature   the paper's: along +-(W W^T)_i for every feature i, and the worst of these 2 n for each sample
    regions   towards the exact maximum of the region's quadratic, then of that of the region it led to, and so on;
              from no perturbation, the best feature attack and a random one
    gradient  projected gradient ascent from random starts

With `moves` the quadratic has as many dimensions as there are features, and `regions` is left out above REGION_LIMIT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from toysup.attacks import Ascent, unit
from toysup.checks import InputError, check_choice, check_interval, check_whole
from toysup.ensemble import Trained, one_thread
from toysup.evidence import BATCH, Estimate, Evidence, enough
from toysup.models import TiedAutoencoder
from toysup.random import Stream, uniforms
from toysup.tasks import Identity

__all__ = ["Attacker", "attack_radius", "vulnerability"]

Attacker = Literal["strongest", "feature", "shared", "regions", "gradient", "random"]
RESTARTS = 4  # four times as many add 0.5% to the harm at n = 400, m = 30
REGION_LIMIT = 64  # dimensions of a quadratic that is maximised exactly, by eigh, for every sample and round
DIRECTIONS = 1 << 20  # first batch number of held-out draws used for random directions; no data lie there
NORM_BATCHES = 4
PIECE = 1 << 18  # numbers in one pass over samples and outputs; stays in cache


def attack_radius(relative: float = 0.1) -> Callable[[Trained], Tensor]:
    """A measure: the largest norm of an attack, `relative` times the mean norm of held-out inputs, (instance,)."""
    check_interval("attack_radius", "relative", relative, 0, open_low=True)

    def measured(trained: Trained) -> Tensor:
        norms = [trained.batch(number, BATCH)[0].norm(dim=-1).mean(-1) for number in range(NORM_BATCHES)]
        return relative * torch.stack(norms).mean(0)

    measured.__name__ = "attack_radius"
    measured.__doc__ = attack_radius.__doc__
    return measured


def vulnerability(
    *attackers: Attacker, relative: float = 0.1, samples: int = 128, moves: bool = False
) -> Callable[[Trained], dict[str, Estimate]]:
    """A measure (L' - L) / radius^2, (instance,): loss under attack minus clean loss, over what an attack does to a
    network without superposition.

    A network that keeps m features in dimensions of their own and ignores the others copies the attack into its
    output, so its L' - L is radius^2, the denominator of Elhage et al. (L' - L) / (L'_0 - L_0), on the same inputs. An
    antipodal pair, one member of which answers, gives 2, and a feature of dimensionality D and norm 1 gives 1 / D.

    Args:
        attackers: a column for each, `vulnerability_<attacker>`, with `_moving` where the target moves; the strongest
            unless given. "strongest" is the most harmful of "feature", "regions" and "gradient" for each sample.
            "shared" is the one feature attack that harms an instance most over all samples; "random" a perturbation
            uniform on the sphere of the same norm, averaged with its opposite.
        relative: the attack's norm in mean norms of the input; Elhage et al. allow 0.1.
        samples: held-out inputs attacked in each instance.
        moves: whether the target moves with the attack.

    An instance whose weights are not finite has NaN. The error is NaN where too few of the samples show anything: at
    inputs that are all 0 every attack does the same.

    Raises InputError for another model than TiedAutoencoder and another task than Identity with squared error.
    """
    attackers = attackers or ("strongest",)
    for attacker in attackers:
        check_choice("vulnerability", "attacker", attacker, get_args(Attacker))
    check_interval("vulnerability", "relative", relative, 0, open_low=True)
    check_whole("vulnerability", "samples", samples, 2)
    moving = "_moving" if moves else ""

    def measured(trained: Trained) -> dict[str, Estimate]:
        with torch.no_grad(), one_thread():
            harms = _attacked(trained, relative, samples, moves)
        lacking = [attacker for attacker in attackers if attacker not in harms]
        if lacking:
            said = f"{lacking[0]!r} with a moving target takes at most {REGION_LIMIT} features"
            raise InputError(f"vulnerability: {said}")
        seen = Evidence()
        seen.add(trained.batch(0, samples)[0])
        shown = enough(seen.shown, samples)

        def estimate(harm: Tensor) -> Estimate:
            return Estimate(harm.mean(-1), torch.where(shown, harm.std(-1) / samples**0.5, torch.nan))

        return {f"vulnerability_{attacker}{moving}": estimate(harms[attacker]) for attacker in attackers}

    measured.__name__ = f"vulnerability{moving}"
    measured.__doc__ = vulnerability.__doc__
    return measured


def _check(trained: Trained) -> None:
    model, task = trained.setting.model, trained.setting.task
    if model.build is not TiedAutoencoder or type(task) is not Identity:
        got = f"{model.build.__name__} on {type(task).__name__}"
        raise InputError(f"vulnerability: needs TiedAutoencoder on Identity, got {got}")
    if task.exponent != 2 or "task.exponent" in trained.values:
        raise InputError("vulnerability: needs a squared error (exponent 2, the same for all instances)")


def _attacked(trained: Trained, relative: float, samples: int, moves: bool) -> dict[str, Tensor]:
    """attacker -> (L' - L) / radius^2 of every sample, (instance, sample)."""
    _check(trained)
    n = trained.setting.features.n_features
    size = max(1, PIECE // (n * samples))
    pieces = [trained.take(range(i, min(i + size, len(trained)))) for i in range(0, len(trained), size)]
    harms = [_attack(piece, relative, samples, moves) for piece in pieces]
    return {attacker: torch.cat([harm[attacker] for harm in harms]) for attacker in harms[0]}


def _attack(trained: Trained, relative: float, samples: int, moves: bool) -> dict[str, Tensor]:
    W, b = (trained.parameters[name].double() for name in ("W", "b"))
    sound = W.isfinite().all(-1).all(-1) & b.isfinite().all(-1)
    W, b = W.where(sound[:, None, None], 0.0), b.where(sound[:, None], 0.0)  # eigh takes no NaN
    x = trained.batch(0, samples)[0].double()
    n = W.shape[1]

    def weight(setting, _):
        return torch.as_tensor(setting.task.importance, dtype=torch.float32).expand(n)

    root = trained.per_instance(weight).double().sqrt()[..., None]  # relu(a z) = a relu(z): weights go inside
    basis, small = torch.linalg.qr(W)  # W = basis small; only d's part in this basis reaches the network
    if moves:
        basis, small = torch.eye(n, dtype=W.dtype).expand(len(W), n, n), W
    ascent = Ascent(
        slope=root * (W @ small.mT),
        offset=root.mT * (x @ W @ W.mT + b[:, None]),
        target=root.mT * x,
        radius=attack_radius(relative)(trained).double(),
        drift=root * basis if moves else None,
        relu=trained.setting.model.arguments.get("relu", True),
    )
    seeds, width = trained.stack.data_seed, ascent.slope.shape[-1]

    def directions(number: int) -> Tensor:
        draws = torch.special.ndtri(uniforms(seeds, DIRECTIONS + number, samples, n, stream=Stream.HELD_OUT).double())
        return ascent.radius[:, None, None] * unit(draws)

    ways = torch.cat([W @ small.mT, -W @ small.mT], 1)
    feature = ascent.along(ways)  # (instance, way, sample)
    instance = torch.arange(len(W))
    length = ascent.radius[:, None, None]
    worst = length * unit(ways[instance[:, None], feature.argmax(1)])  # (instance, sample, dimension)
    starts = [length * unit(directions(k)[..., :width]) for k in range(RESTARTS)]
    chance = directions(RESTARTS) @ basis

    def best(way: Callable[[Ascent, Tensor], Tensor], starts: list[Tensor]) -> Tensor:
        many = ascent.repeated(len(starts))
        return many.loss(way(many, torch.cat(starts, 1))).unflatten(1, (len(starts), samples)).amax(1)

    found = {
        "feature": feature.amax(1),
        "shared": feature[instance, feature.mean(-1).argmax(1)],
        "gradient": best(Ascent.climb, starts),
        "random": (ascent.loss(chance) + ascent.loss(-chance)) / 2,  # both ways: what is odd in d cancels
    }
    if width <= REGION_LIMIT:
        found["regions"] = best(Ascent.hop, [ascent.still(), worst, starts[0]])
    rivals = [found[attacker] for attacker in ("feature", "regions", "gradient") if attacker in found]
    clean = ascent.loss(ascent.still())
    found["strongest"] = torch.stack([clean, *rivals]).amax(0)  # doing nothing is allowed
    harmless = ascent.radius.square().where(sound, torch.nan)[:, None]
    return {attacker: (loss - clean) / harmless for attacker, loss in found.items()}
