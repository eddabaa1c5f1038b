"""Where does each decoder read a code of few features exactly: on random dictionaries, and on learned ones?

Donoho and Tanner's plane (2009, Phil. Trans. R. Soc. A 367:4273): n features in m = delta n dimensions, exactly k = rho
m of them active, U[0, 1], x >= 0. A sample is solved if its relative error (l2) is below 5%. For random unit rows and
n to infinity, l1 solves almost all samples below the weak curve and almost none above; below the strong curve it solves
all of them. Bayes-optimal message passing has a curve of its own, above. At finite n the transition has a width, about
n^-1/2 (Donoho & Tanner 2010, Proc. IEEE 98:913), and here the network's own decoder, one ReLU layer, can be compared.

Random: n = 144 on a 23 x 24 grid, l1 (exact, `l1_homotopy`), orthogonal matching pursuit, AMP. Learned: tied
autoencoders, n = 64, each trained at its cell's density k / n and its own rate; beside random rows of the same seeds.
A network may drop features (|W_i| < 0.1), which no decoder can read; so l1 is judged once more on the features that are
kept, beside random rows with the same features dropped. rho_50, where half the samples are solved, is a logistic fit in
rho; intervals are over seeds, from jackknife pseudo-values (Tukey 1958), which differ by pairs where seeds are shared.

Rules. `l1_random_obeys_weak`: at the largest n rho_50 / weak is within 5% of 1 at both delta; `l1_beats_strong`: rho_50
is above the strong curve at every delta; `amp_beats_l1_on_random`: rho_50 is higher at every delta from 1/4 to 3/4;
`learned_better_than_random`: l1's rho_50 is higher on learned rows at every delta; `better_beyond_dropping`: so it is
among the kept; `own_decoder_fails`: the network solves less than 5% in every cell; `width_shrinks_as_root_n`: exponent
of the width in n within .15 of -1/2 at both delta. Controls: two equal rows (l1 must fail on samples that use both, and
on no others), the best affine decoder (must fail everywhere below m = n), share solved by l1 below the strong curve,
half the training, rates bracketed. l1 asks for x' >= 0, so no decoder here is told k but AMP, by its prior.

Two cores: default about 5 minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import LinearSegmentedColormap
from scipy.optimize import minimize
from torch import Tensor

from toysup import plots, report, stats
from toysup.decoders import Encoding, affine_relu, bayes_amp, l1_homotopy, linear_probe, matching_pursuit
from toysup.ensemble import Trained, one_thread
from toysup.features import SparseUniform
from toysup.measure import encoding_of
from toysup.models import TiedAutoencoder
from toysup.random import Stream, uniforms
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, Results, sweep
from toysup.tasks import Identity
from toysup.theory import bayes_amp_ratio, l1_strong_threshold, l1_weak_threshold

QUESTION = "In the Donoho-Tanner plane, where does each decoder read random and learned dictionaries exactly?"
SOLVED, KEPT, LEVELS, DELTAS = 0.05, 0.1, 24, (0.25, 0.5)
SHARP = ["l1", "omp", "amp"]
DECODERS = dict(zip(SHARP, (l1_homotopy, matching_pursuit, lambda e, h: bayes_amp(e, h, iterations=100)), strict=True))
L1_CASES = ["network", "l1_learned", "l1_random", "l1_learned_kept", "l1_random_kept"]
SHADES = LinearSegmentedColormap.from_list("shades", ["white", "#4c9bd0"])  # light enough for lines to show
OTHER_CASES = [f"{name}_{rows}" for rows in ("learned", "random") for name in ("linear", "one_layer", "omp", "amp")]


# ---------------------------------------------------------------------------------------------------------- measures


def exactly(trained: Trained, k: Tensor, number: int, size: int) -> Tensor:
    """Samples (instance, size, feature) with exactly k[instance] active features, U[0, 1]; `number` names the batch."""
    n = trained.setting.features.n_features
    draws = uniforms(trained.stack.data_seed, number, size, 2 * n, stream=Stream.HELD_OUT)
    rank = draws[..., :n].argsort(-1).argsort(-1)
    return torch.where(rank < k.view(-1, 1, 1), draws[..., n:], 0.0)


def solved(x: Tensor, guess: Tensor, judged: Tensor | float = 1.0) -> Tensor:
    """Share of samples with |x' - x| <= 5% of |x|, over the features judged."""
    missed, size = ((part * judged).norm(dim=-1) for part in (guess - x, x))
    return (missed <= SOLVED * size).float().mean(-1)


def on_random(trained: Trained, decoders: list[str], k: np.ndarray, size: int) -> Tensor:
    """Share solved on random rows at each k, (instance, decoder and k)."""
    code, n, shares = encoding_of(trained).random(), trained.setting.features.n_features, []
    with torch.no_grad(), one_thread():
        for number, active in enumerate(k.tolist()):
            x = exactly(trained, torch.full((len(trained),), active), number, size)
            told = replace(code, density=torch.full_like(code.density, active / n),
                           mean=torch.full_like(code.mean, active / n / 2))  # fmt: skip
            shares.append(torch.stack([solved(x, DECODERS[name](told, x @ code.W)) for name in decoders], 1))
    return torch.stack(shares, 2).flatten(1)


def levels(m: int, n: int) -> np.ndarray:
    """k from 1 to m, evenly: rho = 1/24, 2/24, ..."""
    return np.maximum(1, np.round(m * np.arange(1, LEVELS + 1) / LEVELS)).astype(int)


def near_weak(m: int, n: int) -> np.ndarray:
    """k about the weak threshold, in a window that shrinks as n^-1/2."""
    rho = float(l1_weak_threshold(m / n)) + np.linspace(-1.2, 1.6, 12) / n**0.5
    return np.clip(np.round(rho * m), 1, m).astype(int)


def plane(trained: Trained) -> Tensor:
    """Three decoders, all rho."""
    n, m = trained.parameters["W"].shape[1:]
    return on_random(trained, SHARP, levels(m, n), 12)


def transition(trained: Trained) -> Tensor:
    """l1 about its threshold."""
    n, m = trained.parameters["W"].shape[1:]
    return on_random(trained, ["l1"], near_weak(m, n), 24)


def twins(trained: Trained) -> Tensor:
    """l1 at half the threshold: samples of both twins, of neither, and of both where the rows differ."""
    code, (n, m) = encoding_of(trained).random(), trained.parameters["W"].shape[1:]
    W = code.W.clone()
    W[:, 1] = W[:, 0]
    k = max(1, round(float(l1_weak_threshold(m / n)) * m / 2) - 2)
    neither = exactly(trained, torch.full((len(trained),), k), 0, 64)
    neither[..., :2] = 0
    both = neither.clone()
    both[..., :2] = (1 + exactly(trained, torch.full((len(trained),), n), 1, 64)[..., :2]) / 2
    pairs = ((replace(code, W=W), both), (replace(code, W=W), neither), (code, both))
    return torch.stack([solved(x, l1_homotopy(e, x @ e.W)) for e, x in pairs], 1)


def _learned(trained: Trained) -> tuple[Encoding, Tensor, Tensor]:
    """The code, 64 samples of each network's own k, and which features are kept."""
    code = encoding_of(trained)
    k = (code.density[:, 0] * code.density.shape[1]).round()
    return code, exactly(trained, k, 0, 64), (code.W.norm(dim=-1) >= KEPT).float().unsqueeze(1)


def l1_on_learned(trained: Trained) -> Tensor:
    """L1_CASES."""
    code, x, kept = _learned(trained)
    random = code.random()
    holed = replace(random, W=random.W * kept.mT)
    with torch.no_grad(), one_thread():
        read = [trained.forward(x), *(l1_homotopy(e, x @ e.W) for e in (code, random, code, holed))]
    judged = [1.0, 1.0, 1.0, kept, kept]
    return torch.stack([solved(x, guess, over) for guess, over in zip(read, judged, strict=True)], 1)


def others_on_learned(trained: Trained) -> Tensor:
    """OTHER_CASES, few networks at a time to stay in cache."""
    shares = []
    for part in torch.arange(len(trained)).split(8):
        code, x, _ = _learned(trained.take(part))
        with torch.no_grad(), one_thread():
            shares.append(torch.stack([solved(x, decoder(e, x @ e.W)) for e in (code, code.random()) for decoder in
                                       (linear_probe, affine_relu, DECODERS["omp"], DECODERS["amp"])], 1))  # fmt: skip
    return torch.cat(shares)


def features_kept(trained: Trained) -> Tensor:
    """Rows of norm at least 0.1."""
    return (trained.parameters["W"].norm(dim=-1) >= KEPT).sum(-1)


# -------------------------------------------------------------------------------------------------------- statistics


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


def by_seed(answer: Results, measure: str, cases: int) -> pd.DataFrame:
    """One row per instance, one column per case, of a vector measure; indexed by width, density and seed."""
    own = answer.features[["width", "density", "seed", "feature", measure]]
    own = own[own["feature"] < cases]
    return own.pivot(index=["width", "density", "seed"], columns="feature", values=measure)


def contours(table: pd.DataFrame, n: int, column: int) -> tuple[np.ndarray, dict[int, np.ndarray], dict]:
    """Learned cells: pseudo-values of rho_50 (seed, delta), and rho and mean shares of each width."""
    found, rhos, means = [], {}, {}
    for m, own in table[column].groupby(level="width"):
        shares = own.unstack("density").to_numpy()  # seed density
        rhos[m] = np.round(own.index.unique("density").to_numpy() * n) / m
        means[m] = shares.mean(0)
        found.append(jackknife(lambda mean, rho=rhos[m]: fit(rho, mean)[:1], shares)[:, 0])
    return np.stack(found, 1), rhos, means


def bayes_curve(points: int) -> tuple[np.ndarray, np.ndarray]:
    """(delta, rho) of Bayes-optimal message passing."""
    density = np.geomspace(2e-3, 0.999, points)
    ratio = bayes_amp_ratio(density)
    return 1 / ratio, np.minimum(density * ratio, 1)


# -------------------------------------------------------------------------------------------------------------- grids


def random_grid(n: int, widths: list[int], seeds: int) -> Grid:
    """Networks that nobody trains, for their seeds: `Encoding.random` is their dictionary."""
    setting = Setting(SparseUniform(n, 0.05), Identity(), Model(TiedAutoencoder, width=1), Adam(0.01), steps=1, batch=8)
    return Grid(setting, {"model.width": widths, "features.density": [0.05], "seed": range(seeds)})


def cells_of(run: report.Run, n: int) -> list[tuple[int, int]]:
    """(m, k) of the learned networks."""
    deltas = run.pick(default=[1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4], smoke=[1 / 2])
    rhos = run.pick(default=np.arange(1, 10) / 10, quick=np.arange(1, 10, 2) / 10, smoke=np.array([0.1, 0.5, 0.9]))
    return [(round(d * n), int(k)) for d in deltas for k in np.unique(np.maximum(1, np.round(rhos * d * n)))]


def learned_grid(run: report.Run, n: int, steps: int, cells: list[tuple[int, int, float]], seeds: range) -> Grid:
    batch, optimizer = run.pick(default=256, smoke=32), Adam(beta2=0.99, schedule=Cosine())
    setting = Setting(SparseUniform(n, 0.1), Identity(), Model(TiedAutoencoder, width=1), optimizer, steps, batch)
    axis = ("model.width", "features.density", "optimizer.lr")
    return Grid(setting, {axis: [(m, k / n, lr) for m, k, lr in cells], "seed": seeds})


def main(run: report.Run) -> None:
    cores = run.workers or len(os.sched_getaffinity(0))  # measuring is the work here, not training
    options = {"results": run.results, "device": run.device, "workers": cores}
    n = run.pick(default=144, quick=72, smoke=24)
    widths = [n * j // 24 for j in run.pick(default=range(1, 24), quick=range(2, 24, 3), smoke=[6, 12])]
    sizes = run.pick(default=[32, 64, 128, 256, 512], quick=[32, 64, 128], smoke=[16, 32])
    few, many = run.pick(default=8, smoke=2), run.pick(default=16, smoke=2)
    maps = sweep(random_grid(n, widths, few), [plane], name="plane", **options)
    sharp = {d: {s: sweep(random_grid(s, [round(d * s)], many), [transition], name="transition", **options)
                 for s in sizes} for d in DELTAS}  # fmt: skip
    twin = sweep(random_grid(n, [n // 2], many), [twins], name="twins", **options)

    size, steps = run.pick(default=64, quick=32, smoke=16), run.pick(default=2000, quick=500, smoke=10)
    cells, rates = cells_of(run, size), run.pick(default=[0.0075, 0.015, 0.03], smoke=[0.01, 0.02])
    search = {}
    for m, k in cells:
        whole = learned_grid(run, size, steps, [(m, k, 0.01)], SEARCH_SEEDS)
        axes = {("model.width", "features.density"): [(m, k / size)], "seed": SEARCH_SEEDS}
        search[f"m{m}_k{k}"] = replace(whole, axes=axes)
    best = best_rates(search, rates, extend=run.pick(default=3, smoke=0), **options)
    rated = [(m, k, best.loc[f"m{m}_k{k}", "lr"]) for m, k in cells]
    learned = sweep(learned_grid(run, size, steps, rated, range(few)),
                    [l1_on_learned, others_on_learned, features_kept], name="learned", **options)  # fmt: skip
    half = sweep(learned_grid(run, size, steps // 2, rated, range(few)), [l1_on_learned], name="half", **options)

    statistics, verdict, controls = {}, {}, {}
    # random dictionaries over the plane
    table, deltas = by_seed(maps, "plane", len(SHARP) * LEVELS), np.array(widths) / n
    weak, strong = l1_weak_threshold(deltas), l1_strong_threshold(deltas)
    shares = np.stack([table.xs(m, level="width").to_numpy() for m in widths], 1)
    shares = shares.reshape(few, len(widths), len(SHARP), LEVELS)
    rhos = np.stack([levels(m, n) / m for m in widths])
    half_way = {name: np.stack([jackknife(lambda mean, rho=rho: fit(rho, mean)[:1], shares[:, i, j])[:, 0]
                                for i, rho in enumerate(rhos)], 1) for j, name in enumerate(SHARP)}  # fmt: skip
    middle = (deltas >= 0.25) & (deltas <= 0.75)
    for name in SHARP:
        statistics[f"{name}_random_over_weak"] = stats.mean((half_way[name] / weak)[:, middle].mean(1))
    curves = {"l1, strong (all samples)": (":", deltas, strong),
              "Bayes-optimal AMP": ("--", *bayes_curve(run.pick(default=60, smoke=6)))}  # fmt: skip
    bayes = np.interp(deltas, *curves["Bayes-optimal AMP"][1:])
    statistics["amp_random_over_bayes"] = stats.mean((half_way["amp"] / bayes)[:, middle].mean(1))
    above = [stats.mean(own) for own in (half_way["l1"] - strong).T]
    verdict["l1_beats_strong"] = stats.every(*(stats.decide(one, (0, np.inf)) for one in above))
    gaps = [stats.mean(own) for own in (half_way["amp"] - half_way["l1"])[:, middle].T]
    verdict["amp_beats_l1_on_random"] = stats.every(*(stats.decide(one, (0, np.inf)) for one in gaps))
    below = rhos < strong[:, None]
    controls["l1_below_strong"] = {"solved": stats.mean(shares[:, :, 0][:, below].mean(1)), "cells": int(below.sum())}

    # finite size
    widths_of, limits, slopes = {}, [], []
    for d, answers in sharp.items():
        x = {s: near_weak(round(d * s), s) / round(d * s) for s in sizes}
        own = np.stack([by_seed(answers[s], "transition", 12).to_numpy() for s in sizes], 1)  # seed size rho

        def both(mean: np.ndarray, x: dict = x) -> np.ndarray:
            return np.stack([fit(x[s], row) for s, row in zip(sizes, mean, strict=True)])

        fits = jackknife(both, own)  # seed size (rho_50, scale)
        threshold = float(l1_weak_threshold(d))
        for i, s in enumerate(sizes):
            statistics[f"l1_over_weak_d{d:g}_n{s}"] = stats.mean(fits[:, i, 0] / threshold)
        widths_of[d] = [stats.mean(2 * np.log(3) * fits[:, i, 1]) for i in range(len(sizes))]  # rho_25 - rho_75
        exponent = jackknife(lambda mean, both=both: np.polyfit(np.log(sizes), np.log(both(mean)[:, 1]), 1)[:1], own)
        statistics[f"width_exponent_d{d:g}"] = stats.mean(exponent[:, 0])
        slopes.append(stats.decide(statistics[f"width_exponent_d{d:g}"], (-0.65, -0.35)))
        limits.append(stats.decide(statistics[f"l1_over_weak_d{d:g}_n{sizes[-1]}"], (0.95, 1.05)))
    verdict["l1_random_obeys_weak"], verdict["width_shrinks_as_root_n"] = stats.every(*limits), stats.every(*slopes)
    apart = by_seed(twin, "twins", 3)
    kinds = ("both_twins", "neither", "both_of_different_rows")
    controls["twin_rows"] = {kind: stats.mean(apart[i]) for i, kind in enumerate(kinds)}

    # learned dictionaries
    table = by_seed(learned, "l1_on_learned", len(L1_CASES))
    others = by_seed(learned, "others_on_learned", len(OTHER_CASES))
    read = {case: contours(table, size, i) for i, case in enumerate(L1_CASES)}
    read |= {case: contours(others, size, i) for i, case in enumerate(OTHER_CASES)}
    own_deltas = np.array(sorted({m for m, _ in cells})) / size
    better = {"learned_better_than_random": "", "better_beyond_dropping": "_kept"}
    for name, suffix in better.items():
        gap = read[f"l1_learned{suffix}"][0] - read[f"l1_random{suffix}"][0]
        ends = {d: stats.mean(column) for d, column in zip(own_deltas, gap.T, strict=True)}
        statistics |= {f"l1{suffix}_learned_minus_random_d{d:g}": one for d, one in ends.items()}
        verdict[name] = stats.every(*(stats.decide(one, (0, np.inf)) for one in ends.values()))
    for case in ("l1_learned", "l1_random", "omp_learned", "amp_learned", "amp_random"):
        ratios = read[case][0] / l1_weak_threshold(own_deltas)
        statistics[f"{case}_n{size}_over_weak"] = stats.mean(ratios.mean(1))
    cell_means = {case: source[i].groupby(level=["width", "density"]).agg(lambda rows: stats.mean(rows))
                  for source, names in ((table, L1_CASES), (others, OTHER_CASES))
                  for i, case in enumerate(names)}  # fmt: skip
    verdict["own_decoder_fails"] = stats.every(
        *(stats.decide(one, (-np.inf, 0.05)) for one in cell_means["network"]))  # fmt: skip
    for case in ("network", "one_layer_learned", "one_layer_random", "linear_learned", "linear_random"):
        statistics[f"{case}_best_cell"] = max(cell_means[case], key=lambda one: one.value)
    kept = learned.table.assign(k=(learned.table["density"] * size).round().astype(int))
    controls["features_kept"] = {f"m{m}_k{k}": stats.mean(own) for (m, k), own in
                                 kept.groupby(["width", "k"])["features_kept"]}  # fmt: skip
    shorter = contours(by_seed(half, "l1_on_learned", len(L1_CASES)), size, 1)[0] - read["l1_learned"][0]
    controls["l1_learned_half_the_training_minus_whole"] = {
        f"d{d:g}": stats.mean(own) for d, own in zip(own_deltas, shorter.T, strict=True)}  # fmt: skip
    controls["learning_rate"] = {"bracketed": int(best["bracketed"].sum()), "cells": len(best),
                                 "rates": dict(best["lr"])}  # fmt: skip
    controls["rho_50_random"] = {f"{name}_d{d:.3f}": stats.mean(own) for name, values in half_way.items()
                                 for d, own in zip(deltas, values.T, strict=True)}  # fmt: skip
    controls["rho_50_learned"] = {f"{case}_d{d:g}": stats.mean(own) for case, (values, *_) in read.items()
                                  for d, own in zip(own_deltas, values.T, strict=True)}  # fmt: skip

    answers = [maps, twin, learned, half, *(one for own in sharp.values() for one in own.values())]
    drawing = draw(deltas, rhos, shares.mean(0), half_way, curves, (own_deltas, read), (sizes, widths_of), (n, size))
    report.write(run, drawing, statistics=statistics, verdict=verdict, controls=controls, steps=steps,
                 engine=", ".join(sorted(set(learned.table["engine"]))),
                 instances=sum(len(one.grid) for one in answers) + len(best) * len(rates) * len(SEARCH_SEEDS),
                 seconds=sum(one.seconds for one in answers))  # fmt: skip


def draw(deltas: np.ndarray, rhos: np.ndarray, shares: np.ndarray, half_way: dict, curves: dict, learned: tuple,
         finite: tuple, sizes: tuple[int, int]) -> plots.Figure:  # fmt: skip
    """Share solved over the plane, six times; the contours of l1 on learned and random rows; the width of its step."""
    figure, axes = plots.figure(2, 4, width=15, height=3.9)
    own_deltas, read = learned
    for ax, name, title in zip(axes[0], SHARP, ("l1", "matching pursuit", "AMP"), strict=False):
        cells = [(d, rho, share[SHARP.index(name)]) for d, rho, share in zip(deltas, rhos, shares, strict=True)]
        drawn = paint(ax, cells, curves)
        ends(ax, deltas, half_way[name])
        ax.set_title(f"{title}, random rows, n = {sizes[0]}", fontsize=11)
    titles = {"l1_learned": "l1", "amp_learned": "AMP", "network": "the network itself"}
    for ax, (case, title) in zip(axes[1], titles.items(), strict=False):
        values, own, means = read[case]
        paint(ax, [(d, own[m], means[m]) for d, m in zip(own_deltas, own, strict=True)], curves)
        ends(ax, own_deltas, values)
        ax.set_title(f"{title}, learned rows, n = {sizes[1]}", fontsize=11)
    figure.colorbar(drawn, ax=list(axes[:, 2]), label="share of samples solved")

    ax, (ns, widths) = axes[0, 3], finite
    for (d, found), colour in zip(widths.items(), plots.category_colours(widths).values(), strict=True):
        reach = np.array([[max(one.value - one.low, 0), max(one.high - one.value, 0)] for one in found]).T
        reach = np.where(np.isfinite(reach), reach, 0)
        ax.errorbar(ns, [one.value for one in found], reach, marker="o", color=colour, label=f"$\\delta$ = {d:g}")
        ax.plot(ns, found[0].value * (np.array(ns) / ns[0]) ** -0.5, color=plots.GREY, linestyle="--", zorder=1)
    ax.plot([], [], color=plots.GREY, linestyle="--", label="$n^{-1/2}$")
    ax.set(xscale="log", yscale="log", xticks=ns, xticklabels=ns, xlabel="features n", title="l1's step, random rows",
           ylabel="width, $\\rho_{25} - \\rho_{75}$")  # fmt: skip
    ax.minorticks_off()
    ax.set_yticks([0.05, 0.1, 0.2, 0.4], ["0.05", "0.1", "0.2", "0.4"])
    ax.legend()

    ax = axes[1, 3]
    cases = {"l1_learned": "learned", "l1_random": "random", "l1_learned_kept": "learned, kept only",
             "l1_random_kept": "random, same dropped"}  # fmt: skip
    colours = plots.category_colours(cases)
    for number, (case, label) in enumerate(cases.items()):
        style = {"linestyle": "--", "mfc": "white"} if "kept" in case else {}
        ends(ax, own_deltas + 0.006 * (number - 1.5), read[case][0], color=colours[case], label=label, **style)
    ax.plot(own_deltas, l1_weak_threshold(own_deltas), color="black", linewidth=1, label="weak")
    ax.set(xlabel="$\\delta$ = m / n", ylabel="$\\rho_{50}$", title=f"l1, n = {sizes[1]}", ylim=(0, 1.55))
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.legend(fontsize=9, loc="upper center", ncols=2, columnspacing=1)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=10)
    gap = (read["l1_learned"][0] - read["l1_random"][0]).mean()
    word, sign = ("easier", "higher") if gap > 0 else ("harder", "lower")
    figure.suptitle(
        f"Learned codes are {word} for l1 than random ones: half the samples are solved up to a k/m {abs(gap):.2f} "
        f"{sign}; the network reads up to {read['network'][0].mean():.2f}"
    )
    return figure


def paint(ax: plots.Axes, cells: list[tuple[float, np.ndarray, np.ndarray]], curves: dict) -> Any:
    """Columns of cells, one for each delta with rho of its own, and the three curves."""
    at = np.array([d for d, *_ in cells])
    inner = (at[1:] + at[:-1]) / 2 if len(at) > 1 else np.array([])
    reach = at[1] - at[0] if len(at) > 1 else 0.1
    edges = np.concatenate([[max(at[0] - reach / 2, 0)], inner, [min(at[-1] + reach / 2, 1)]])
    for i, (_, rho, share) in enumerate(cells):
        own = pd.Series(share).groupby(rho).mean()
        middles = (own.index[1:] + own.index[:-1]).to_numpy() / 2
        sides = np.concatenate([[0], middles, [1]])
        mesh = {"vmin": 0, "vmax": 1, "cmap": SHADES, "rasterized": True}
        drawn = ax.pcolormesh(edges[i : i + 2], sides, own.to_numpy()[:, None], **mesh)
    x = np.linspace(0.02, 0.98, 49)
    for label, (style, *line) in {"l1, weak (typical samples)": ("-", x, l1_weak_threshold(x)), **curves}.items():
        ax.plot(*line, color="black", linestyle=style, linewidth=1.5, label=label)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="$\\delta$ = m / n", ylabel="$\\rho$ = k / m", facecolor="0.9")
    return drawn


def ends(ax: plots.Axes, x: np.ndarray, values: np.ndarray, **line: Any) -> None:
    """rho_50 with its interval."""
    found = [stats.mean(own) for own in values.T]
    reach = np.array([[one.value - one.low, one.high - one.value] for one in found]).T.clip(min=0)
    line = {"color": "#d55e00", "label": "half of the samples solved, measured", **line}
    ax.errorbar(x, [one.value for one in found], np.where(np.isfinite(reach), reach, 0), marker="o", markersize=4,
                linewidth=1.2, **line)  # fmt: skip


if __name__ == "__main__":
    report.experiment(main)
