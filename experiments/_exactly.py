"""What donoho_tanner.py measures: the share of samples that a decoder solves exactly, and where it is one half."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize
from torch import Tensor

from toysup import stats
from toysup.decoders import affine_relu, bayes_amp, l1_homotopy, linear_probe, matching_pursuit
from toysup.ensemble import Trained, one_thread
from toysup.measure import encoding_of
from toysup.random import Stream, uniforms
from toysup.theory import l1_weak_threshold

SOLVED, KEPT, LEVELS = 0.05, 0.1, 24
SHARP = {"l1": l1_homotopy, "omp": matching_pursuit, "amp": lambda e, h: bayes_amp(e, h, iterations=100)}
OTHERS = {"linear": linear_probe, "one_layer": affine_relu, "omp": SHARP["omp"], "amp": SHARP["amp"]}
CASES = ["network", *(f"l1_{kind}{kept}" for kept in ("", "_kept") for kind in ("learned", "random")),
         *(f"{name}_{kind}" for kind in ("learned", "random") for name in OTHERS)]  # fmt: skip
TWINS = ("both_twins", "neither", "both_of_different_rows")


def exactly(trained: Trained, k: Tensor | int, number: int, size: int) -> Tensor:
    """Samples (instance, size, feature) with exactly k[instance] active features, U[0, 1]; `number` names the batch."""
    n = trained.setting.features.n_features
    draws = uniforms(trained.stack.data_seed, number, size, 2 * n, stream=Stream.HELD_OUT)
    rank = draws[..., :n].argsort(-1).argsort(-1)
    return torch.where(rank < torch.as_tensor(k).view(-1, 1, 1), draws[..., n:], 0.0)


def solved(x: Tensor, guess: Tensor, judged: Tensor | float = 1.0) -> Tensor:
    """Share of samples with |x' - x| <= 5% of |x|, over the features judged."""
    missed, size = ((part * judged).norm(dim=-1) for part in (guess - x, x))
    return (missed <= SOLVED * size).float().mean(-1)


def ks_of(kind: str, n: int, m: int) -> np.ndarray:
    """k from 1 to m, evenly; or about the weak threshold, in a window that shrinks as n^-1/2."""
    if kind == "plane":
        return np.maximum(1, np.round(m * np.arange(1, LEVELS + 1) / LEVELS)).astype(int)
    rho = float(l1_weak_threshold(m / n)) + np.linspace(-1.2, 1.6, 12) / n**0.5
    return np.clip(np.round(rho * m), 1, m).astype(int)


def on_random(trained: Trained, kind: str, decoders: list[str], size: int) -> dict[str, Tensor]:
    """Share solved on random rows by decoder and number of k."""
    code, (n, m), shares = encoding_of(trained).random(), trained.parameters["W"].shape[1:], {}
    with torch.no_grad(), one_thread():
        for number, k in enumerate(ks_of(kind, n, m).tolist()):
            x = exactly(trained, k, number, size)
            means = {"density": torch.full_like(code.density, k / n), "mean": torch.full_like(code.mean, k / n / 2)}
            told = replace(code, **means)
            shares |= {f"{name}_{number}": solved(x, SHARP[name](told, x @ code.W)) for name in decoders}
    return shares


def plane(trained: Trained) -> dict[str, Tensor]:
    return on_random(trained, "plane", list(SHARP), 12)


def step(trained: Trained) -> dict[str, Tensor]:
    return on_random(trained, "step", ["l1"], 24)


def twins(trained: Trained) -> dict[str, Tensor]:
    """l1 at half the threshold: samples of both twins, of neither, and of both where the rows differ."""
    code, (n, m) = encoding_of(trained).random(), trained.parameters["W"].shape[1:]
    W = code.W.clone()
    W[:, 1] = W[:, 0]
    neither = exactly(trained, max(1, round(float(l1_weak_threshold(m / n)) * m / 2) - 2), 0, 64)
    neither[..., :2] = 0
    both = neither.clone()
    both[..., :2] = (1 + exactly(trained, n, 1, 64)[..., :2]) / 2
    pairs = ((replace(code, W=W), both), (replace(code, W=W), neither), (code, both))
    return {name: solved(x, l1_homotopy(e, x @ e.W)) for name, (e, x) in zip(TWINS, pairs, strict=True)}


def on_learned(trained: Trained) -> dict[str, Tensor]:
    """The network's own decoder and l1 on 64 samples of each network's own k; how many features are kept."""
    code = encoding_of(trained)
    random, kept = code.random(), (code.W.norm(dim=-1) >= KEPT).float().unsqueeze(1)
    x = exactly(trained, (code.density[:, 0] * code.density.shape[1]).round(), 0, 64)
    holed = replace(random, W=random.W * kept.mT)
    with torch.no_grad(), one_thread():
        read = [trained.forward(x), *(l1_homotopy(e, x @ e.W) for e in (code, random, code, holed))]
    judged = [1.0, 1.0, 1.0, kept, kept]
    found = {case: solved(x, *own) for case, *own in zip(CASES, read, judged, strict=False)}
    return found | {"features_kept": kept.sum((-1, -2))}


def others_on_learned(trained: Trained) -> dict[str, Tensor]:
    """The other decoders, few networks at a time to stay in cache."""
    parts = []
    for rows in torch.arange(len(trained)).split(8):
        code = encoding_of(own := trained.take(rows))
        x = exactly(own, (code.density[:, 0] * code.density.shape[1]).round(), 0, 64)
        with torch.no_grad(), one_thread():
            parts.append({f"{name}_{kind}": solved(x, decoder(e, x @ e.W)) for name, decoder in OTHERS.items()
                          for kind, e in (("learned", code), ("random", code.random()))})  # fmt: skip
    return {case: torch.cat([part[case] for part in parts]) for case in parts[0]}


MEASURES = {"plane": [plane], "step": [step], "twins": [twins], "learned": [on_learned, others_on_learned]}


def fit(rho: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(rho_50, scale) of share = 1 / (1 + exp((rho - rho_50) / scale)), by likelihood; rho_50 in [0, 1]. A faint prior
    on the scale decides where shares jump from 1 to 0 between two rho."""

    def cost(at: np.ndarray) -> tuple[float, np.ndarray]:
        z = (at[0] - rho) / np.exp(at[1])
        off = 1 / (1 + np.exp(-np.clip(z, -500, 500))) - share
        prior = at[1] - np.log(0.05)
        value = np.sum(np.logaddexp(0, z) - share * z) + 1e-3 * prior**2
        return value, np.array([off.sum() / np.exp(at[1]), 2e-3 * prior - off @ z])

    start = np.clip(rho[0] + np.trapezoid(share, rho), 0.01, 0.99), np.log(0.05)
    found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=[(0, 1), (np.log(0.002), np.log(0.5))])
    return np.array([found.x[0], np.exp(found.x[1])])


def jackknife(function: Callable[[np.ndarray], np.ndarray], shares: np.ndarray) -> np.ndarray:
    """Pseudo-values of function(mean of the shares over seeds), one row for each seed (the first axis)."""
    seeds = len(shares)
    whole, total = function(shares.mean(0)), shares.sum(0)
    return np.stack([seeds * whole - (seeds - 1) * function((total - own) / (seeds - 1)) for own in shares])


class Column(NamedTuple):
    """One decoder at one delta: rho, shares solved (seed, rho), and pseudo-values (seed, 2) of rho_50 and the scale."""

    rho: np.ndarray
    shares: np.ndarray
    fits: np.ndarray

    def less(self, other: "Column | float" = 0.0) -> stats.Interval:
        """rho_50, less another one's by seed, or less a number."""
        return stats.mean(self.fits[:, 0] - (other.fits[:, 0] if isinstance(other, Column) else float(other)))


def column(rho: np.ndarray, shares: pd.DataFrame) -> Column:
    own = shares.to_numpy()
    return Column(rho, own, jackknife(lambda mean: fit(rho, mean), own))
