"""Which dictionary a penalty prefers for two features, exactly; and how well random dictionaries do."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import scipy

from toysup.checks import check_choice, check_interval, check_room, check_whole

__all__ = ["PairDictionary", "mcc_floor", "mmcs_floor", "pair_dictionaries"]

PAIR = {"A": (1.0, 0.0), "B": (0.0, 1.0), "A+B": (math.sqrt(0.5), math.sqrt(0.5))}
Kind = Literal["l1", "l0", "topk"]


class PairDictionary(NamedTuple):
    """A dictionary for two features: its directions, and what it costs if each sample is coded as well as it allows.

    `l0`, `l1` (of unit-norm directions) and `mse` (|h - h'|^2) are expectations; `loss` is mse + penalty * (l1 or l0).
    `uses` says for each direction in which of the states "A only", "B only", "both" it is active.
    """

    directions: tuple[str, ...]
    l0: float
    l1: float
    mse: float
    loss: float
    uses: tuple[tuple[str, ...], ...]

    @property
    def composite(self) -> bool:
        """Whether a latent is active for both features together and for neither alone."""
        return ("both",) in self.uses


def pair_dictionaries(
    p: float,
    q: float,
    both: float | None = None,
    *,
    kind: Kind = "l1",
    penalty: float = 0.0,
    latents: int = 3,
    k: int = 1,
) -> list[PairDictionary]:
    """All dictionaries of at most `latents` of the directions A, B, A+B (orthonormal A and B), best first.

    Two features are 0 or 1, with P(A) = p, P(B) = q and P(A and B) = `both` (p q unless given). Every sample takes the
    code z >= 0 that is cheapest for it: the least |h - D z|^2 + penalty * sum z ("l1"), + penalty * (number of z > 0)
    ("l0"), or the least error with at most k latents ("topk"). For 0 < penalty, l1 < 2, l0 < 1, every such code can be
    computed by an encoder ReLU(W h + b), or the same with thresholds, as there are three states and the origin.

    Without shrinkage (penalty -> 0) the dictionary [A, B] has L0 = L1 = p + q and [A, B, A+B], whose latents then fire
    for A&!B, !A&B and A&B, has L0 = p + q - P(A&B) and L1 = p + q - (2 - sqrt 2) P(A&B); both have no error. An L1
    penalty c takes c / 2 off every latent that is active, which adds c^2 / 4 to the error for each.

    Raises:
        InputError: probabilities that no two events have, a negative penalty.
    """
    for name, value in (("p", p), ("q", q)):
        check_interval("pair_dictionaries", name, value, 0, 1, one=True)
    both = p * q if both is None else both
    check_interval("pair_dictionaries", "both", both, max(0.0, p + q - 1), min(p, q), one=True)
    check_interval("pair_dictionaries", "penalty", penalty, 0, one=True)
    check_whole("pair_dictionaries", "latents", latents)
    check_whole("pair_dictionaries", "k", k)
    check_choice("pair_dictionaries", "kind", kind, ("l1", "l0", "topk"))
    states = {"A only": (p - both, (1.0, 0.0)), "B only": (q - both, (0.0, 1.0)), "both": (both, (1.0, 1.0))}
    found = []
    for size in range(1, min(latents, len(PAIR)) + 1):
        for names in itertools.combinations(PAIR, size):
            D = np.array([PAIR[name] for name in names]).T
            totals, uses = np.zeros(4), [[] for _ in names]
            for state, (chance, h) in states.items():
                z, *costs = _code(D, np.array(h), kind, penalty, k)
                totals += chance * np.array(costs)
                for number in np.flatnonzero(z) if chance else ():
                    uses[number].append(state)
            found.append(PairDictionary(names, *map(float, totals), tuple(map(tuple, uses))))
    return sorted(found, key=lambda one: (round(one.loss, 12), len(one.directions)))


def _code(D: np.ndarray, h: np.ndarray, kind: Kind, penalty: float, k: int) -> tuple[np.ndarray, ...]:
    """(z, L0, L1, error, loss) of the cheapest code: the best of all supports, of one or two directions at most."""
    width, count = D.shape
    best = (np.zeros(count), 0.0, 0.0, float(h @ h), float(h @ h))
    for size in range(1, min(width, count, k if kind == "topk" else width) + 1):
        for support in itertools.combinations(range(count), size):
            own = D[:, support]
            if kind == "l1":
                values = np.linalg.solve(own.T @ own, own.T @ h - penalty / 2)
            else:
                values = scipy.optimize.nnls(own, h)[0]
            if (values <= 1e-12).any():
                continue
            z = np.zeros(count)
            z[list(support)] = values
            error = float(np.square(h - D @ z).sum())
            loss = error + penalty * {"l1": values.sum(), "l0": size, "topk": 0}[kind]
            if loss < best[-1] - 1e-12:
                best = (z, float(size), float(values.sum()), error, float(loss))
    return best


def mmcs_floor(latents: int, width: int) -> float:
    """Expected largest cosine of a direction with `latents` random unit vectors in `width` dimensions.

    The mean max cosine similarity (Sharkey, Braun & Millidge 2022) of a random dictionary, whatever the features. The
    cosine c has (1 + c) / 2 ~ Beta((d - 1) / 2, (d - 1) / 2), so the maximum of H has mean 1 - int G^H over [-1, 1].
    """
    check_whole("mmcs_floor", "latents", latents)
    check_whole("mmcs_floor", "width", width, 2)
    law = scipy.stats.beta((width - 1) / 2, (width - 1) / 2)
    below = scipy.integrate.quad(lambda c: law.cdf((1 + c) / 2) ** latents, -1, 1, limit=200)[0]
    return float(1 - below)


def mcc_floor(features: int, latents: int, width: int, draws: int = 64) -> float:
    """Expected mean cosine over `features` random unit vectors of their best one-to-one matching with `latents` others.

    Features without a partner count 0. From `draws` random pairs of sets, always the same.
    """
    sizes = {"features": features, "latents": latents, "width": width, "draws": draws}
    sizes = {name: check_whole("mcc_floor", name, value, at_most=2**31 - 1) for name, value in sizes.items()}
    ours, theirs, across, _ = sizes.values()
    needed = 16 * (ours * theirs + (ours + theirs) * across)
    check_room("mcc_floor", f"features = {features}, latents = {latents}, width = {width}", needed)
    return _mcc_floor(*sizes.values())


@lru_cache(maxsize=256)
def _mcc_floor(features: int, latents: int, width: int, draws: int) -> float:
    rng, total = np.random.default_rng(0), 0.0
    for _ in range(draws):
        truth, own = (_unit(rng.standard_normal((count, width))) for count in (features, latents))
        cosines = truth @ own.T
        total += cosines[scipy.optimize.linear_sum_assignment(cosines, maximize=True)].clip(min=0).sum()
    return total / draws / features


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
