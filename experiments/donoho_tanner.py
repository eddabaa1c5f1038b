"""Where does each decoder read a code of few features exactly: on random dictionaries, and on learned ones?

Donoho and Tanner's plane (2009, Phil. Trans. R. Soc. A 367:4273): n features in m = delta n dimensions, exactly k = rho
m of them active, U[0, 1]. A sample is solved if its relative error (l2) is below 5%. For random unit rows and n to
infinity, l1 solves almost all samples below the weak curve and almost none above; all of them below the strong one.
Bayes-optimal message passing has a curve of its own, above. At finite n the transition has a width, about n^-1/2
(Donoho & Tanner 2010, Proc. IEEE 98:913). No decoder is told k but AMP, by its prior; l1 asks for x' >= 0.

Random rows: l1 (exact), orthogonal matching pursuit, AMP. Learned: tied autoencoders, each trained at its cell's k / n,
beside random rows of the same seeds. A network may drop features (|W_i| < 0.1), which no decoder can read; so l1 is
judged on the kept ones too, beside random rows with the same dropped. rho_50, where half the samples are solved, is a
logistic fit in rho; intervals are over seeds, from jackknife pseudo-values (Tukey 1958). Two cores: default 5 minutes.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap

from toysup import plots, stats
from toysup.features import SparseUniform
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.study import Check, Claim, Finding, Run, Search, Study, Variant, bracketed, experiment
from toysup.sweep import Grid
from toysup.tasks import Identity
from toysup.theory import bayes_amp_ratio, l1_strong_threshold, l1_weak_threshold

sys.path.insert(0, str(Path(__file__).resolve().parent))
import _exactly
from _exactly import CASES, SHARP, SOLVED, TWINS, Column, column, fit, jackknife

QUESTION = "In the Donoho-Tanner plane, where does each decoder read random and learned dictionaries exactly?"
BY, DELTAS = ["kind", "n", "m", "delta"], (0.25, 0.5)
BEST = ("network", "one_layer_learned", "one_layer_random", "linear_learned", "linear_random")
OVER_WEAK = ("l1_learned", "l1_random", "omp_learned", "amp_learned", "amp_random")
SHADES = LinearSegmentedColormap.from_list("shades", ["white", "#4c9bd0"])  # light enough for lines to show


class Cell(NamedTuple):
    """n features in m dimensions. "plane": random rows at all k; "step": near the threshold; "twins": two equal rows;
    "learned": a network trained with k active."""

    kind: str
    n: int
    m: int
    k: int = 0

    @property
    def delta(self) -> float:
        return self.m / self.n


def columns(rows: pd.DataFrame, kind: str, n: int, m: int) -> dict[str, Column]:
    """By decoder; a learned column's cells are networks of their own."""
    if kind == "learned":
        return {case: learned_column(rows, case) for case in CASES}
    rho, names = _exactly.ks_of(kind, n, m) / m, SHARP if kind == "plane" else ["l1"]
    return {name: column(rho, rows[[f"{name}_{i}" for i in range(len(rho))]]) for name in names}


def learned_column(rows: pd.DataFrame, case: str) -> Column:
    table = rows.pivot(index="seed", columns="k", values=case)
    return column(table.columns.to_numpy() / rows["m"].iloc[0], table)


def over(columns: dict, kind: str, case: str, curve: Callable, low: float = 0, high: float = 1) -> stats.Interval:
    """rho_50 over a curve, in the mean of all delta from `low` to `high`."""
    own = {key[-1]: cell[case] for key, cell in columns.items() if key[0] == kind and low <= key[-1] <= high}
    rho_50 = np.stack([one.fits[:, 0] for one in own.values()], 1)
    return stats.mean((rho_50 / curve(np.array(list(own)))).mean(1))


def exponent(columns: dict, delta: float) -> stats.Interval:
    """Slope of ln width in ln n."""
    own = {key[1]: cell["l1"] for key, cell in columns.items() if key[0] == "step" and key[-1] == delta}

    def slope(mean: np.ndarray) -> np.ndarray:
        scales = [fit(one.rho, row)[1] for one, row in zip(own.values(), mean, strict=True)]
        return np.polyfit(np.log(list(own)), np.log(scales), 1)[:1]

    return stats.mean(jackknife(slope, np.stack([one.shares for one in own.values()], 1))[:, 0])


def strong(rows: pd.DataFrame) -> dict[float, float]:
    """The strong curve, which takes seconds, by delta."""
    deltas = np.sort(rows["delta"].unique())
    return dict(zip(deltas.tolist(), l1_strong_threshold(deltas).tolist(), strict=True))


def below_strong(columns: dict, strong: dict) -> stats.Interval:
    """Share that l1 solves below the strong curve."""
    own = [(strong[key[-1]], cell["l1"]) for key, cell in columns.items() if key[0] == "plane"]
    return stats.mean(np.concatenate([one.shares[:, one.rho < least] for least, one in own], 1).mean(1))


def bayes_curve(points: int) -> tuple[np.ndarray, np.ndarray]:
    """(delta, rho) of Bayes-optimal message passing."""
    density = np.geomspace(2e-3, 0.999, points)
    ratio = bayes_amp_ratio(density)
    return 1 / ratio, np.minimum(density * ratio, 1)


def study(run: Run) -> Study:
    size = run.sizes(dict(n=144, across=range(1, 24), sizes=(32, 64, 128, 256, 512), few=8, many=16, points=60, own=64,
                          deltas=(1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4), rhos=range(1, 10), steps=2000, batch=256,
                          rates=(0.0075, 0.015, 0.03), extend=3),
                     quick=dict(n=72, across=range(2, 24, 3), sizes=(32, 64, 128), own=32, rhos=range(1, 10, 2),
                                steps=400, few=4, many=8, extend=1),
                     smoke=dict(n=24, across=(6, 12), sizes=(16, 32), few=2, many=2, points=6, own=16, deltas=(1 / 2,),
                                rhos=(1, 5, 9), steps=10, batch=32, rates=(0.01, 0.02), extend=0))  # fmt: skip
    cells = [Cell("twins", size.n, size.n // 2), *(Cell("plane", size.n, size.n * j // 24) for j in size.across)]
    cells += [Cell("step", n, round(delta * n)) for delta in DELTAS for n in size.sizes]
    cells += [Cell("learned", size.own, round(delta * size.own), int(k)) for delta in size.deltas for k in
              np.unique(np.maximum(1, np.round(np.array(size.rhos) / 10 * delta * size.own)))]  # fmt: skip

    def grid(cell: Cell) -> Grid:
        """Of random rows nobody trains the networks: they lend their seeds, of which `Encoding.random` is made."""
        model, seeds = Model(TiedAutoencoder, width=cell.m), size.many if cell.kind in ("step", "twins") else size.few
        if cell.kind != "learned":
            setting = Setting(SparseUniform(cell.n, 0.05), Identity(), model, Adam(0.01), steps=1, batch=8)
            return Grid(setting, {"seed": range(seeds)})
        optimizer, features = Adam(beta2=0.99, schedule=Cosine()), SparseUniform(cell.n, cell.k / cell.n)
        return Grid(Setting(features, Identity(), model, optimizer, size.steps, size.batch), {"seed": range(seeds)})

    weak, plane_of, learned_of = l1_weak_threshold, {"kind": "plane"}, {"kind": "learned"}
    middle = lambda table: (table["kind"] == "plane") & table["delta"].between(0.25, 0.75)  # noqa: E731
    random, trained = ("twin_rows", "l1_below_strong"), ("affine_fails", "learning_rates_bracketed")
    return Study(
        cells, grid, measures=lambda cell: _exactly.MEASURES[cell.kind],
        workers=None if run.mode == "smoke" else len(os.sched_getaffinity(0)),
        search=Search(lambda c: grid(c).setting, size.rates, extend=size.extend, of=lambda c: c.kind == "learned"),
        variants={"half the training": Variant({"steps": 0.5}, lambda c: c.kind == "learned", [_exactly.on_learned])},
        findings={
            "columns": Finding(columns, BY, where=lambda table: table["kind"] != "twins", kept=False),
            "rho_50": Finding(lambda columns: {case: one.less() for case, one in columns.items()}, BY,
                              where={"kind": ["plane", "learned"]}),
            "strong": Finding(strong, where=plane_of, kept=False),
            "bayes": Finding(lambda: bayes_curve(size.points), kept=False),
            "random": Finding(lambda columns, bayes: {
                **{f"{name}_random_over_weak": over(columns, "plane", name, weak, 0.25, 0.75) for name in SHARP},
                "amp_random_over_bayes": over(columns, "plane", "amp", lambda d: np.interp(d, *bayes), 0.25, 0.75)},
                named="{column}"),
            "step": Finding(lambda columns, delta: {
                "over_weak": stats.mean(columns["l1"].fits[:, 0] / float(weak(delta))),
                "width": stats.mean(2 * np.log(3) * columns["l1"].fits[:, 1])},  # rho_25 - rho_75
                BY, "l1_{column}_d{delta:g}_n{n}", {"kind": "step"}),
            "exponent": Finding(exponent, "delta", "width_exponent_d{delta:g}", {"kind": "step"}),
            "below_strong": Finding(below_strong),
            "twins": Finding(lambda rows: {name: stats.mean(rows[name]) for name in TWINS}, where={"kind": "twins"}),
            "gap": Finding(lambda columns: {f"l1{kept}": columns[f"l1_learned{kept}"].less(columns[f"l1_random{kept}"])
                                            for kept in ("", "_kept")},
                           BY, "{column}_learned_minus_random_d{delta:g}", learned_of),
            "learned": Finding(lambda columns: {f"{case}_n{size.own}_over_weak": over(columns, "learned", case, weak)
                                                for case in OVER_WEAK}, named="{column}"),
            "cells": Finding(lambda rows: {case: stats.mean(rows[case]) for case in [*CASES, "features_kept"]},
                             ["m", "k"], where=learned_of),
            "best": Finding(lambda cells: {f"{case}_best_cell": max((own[case] for own in cells.values()),
                                                                    key=lambda one: one.value)
                                           for case in BEST}, named="{column}"),
            "half_the_training_minus_whole": Finding(
                lambda rows, columns: learned_column(rows, "l1_learned").less(columns["l1_learned"]), BY,
                variant="half the training"),
        },
        claims=[
            Claim("l1_random_obeys_weak", "at the largest n l1 solves half the samples within 5% of the weak curve",
                  "step.over_weak", (0.95, 1.05), where={"n": size.sizes[-1]}, checks=random),
            Claim("l1_beats_strong", "l1 solves half the samples above the strong curve, at every delta",
                  lambda columns, strong, delta: columns["l1"].less(strong[delta]), (0, np.inf), by=BY, where=plane_of,
                  checks=random),
            Claim("amp_beats_l1_on_random", "message passing solves more than l1 at every delta from 1/4 to 3/4",
                  lambda columns: columns["amp"].less(columns["l1"]), (0, np.inf), by=BY, where=middle, checks=random),
            Claim("width_shrinks_as_root_n", "the width of l1's step goes as n to the -1/2 +- 0.15", "exponent",
                  (-0.65, -0.35), checks=random),
            Claim("learned_better_than_random", "l1 reads learned rows further than random ones, at every delta",
                  "gap.l1", (0, np.inf), checks=trained),
            Claim("better_beyond_dropping", "so it does among the features that the network keeps", "gap.l1_kept",
                  (0, np.inf), checks=trained),
            Claim("own_decoder_fails", "the network itself solves less than 5% of the samples in every cell",
                  "cells.network", (-np.inf, SOLVED), checks=trained),
            Check("twin_rows", "l1 fails on samples that use both of two equal rows, and on no others", lambda twins:
                  twins["both_twins"].value < SOLVED and min(twins[one].value for one in TWINS[1:]) > 1 - SOLVED),
            Check("l1_below_strong", "below the strong curve l1 solves over 99%", "below_strong", (0.99, np.inf)),
            Check("affine_fails", "the best affine decoder solves less than 5% in every cell", lambda best:
                  max(best["linear_learned_best_cell"].value, best["linear_random_best_cell"].value) < SOLVED),
            bracketed("learning_rates_bracketed", where=learned_of),
        ],
        draw=draw, answer=answer,
    )  # fmt: skip


def answer(gap: dict, rho_50: dict) -> str:
    less = np.mean([one["l1"].value for one in gap.values()])
    network = np.mean([own["network"].value for (kind, *_), own in rho_50.items() if kind == "learned"])
    word, sign = ("better", "more") if less > 0 else ("worse", "fewer")
    return (f"Sparse recovery (l1) reads learned codes {word} than random ones: half the samples up to {abs(less):.2f} "
            f"{sign} active features per dimension; the network itself only up to {network:.2f}.")  # fmt: skip


def draw(columns: dict, rho_50: dict, strong: dict, bayes: tuple, step: dict) -> plots.Figure:
    """Share solved over the plane, six times; the contours of l1 on learned and random rows; the width of its step."""
    figure, axes = plots.figure(2, 4, width=15, height=3.9)
    names = {"l1": "l1", "omp": "matching pursuit", "amp": "AMP", "l1_learned": "l1", "amp_learned": "AMP",
             "network": "the network itself"}  # fmt: skip
    half = {case: {key[-1]: own[case] for key, own in rho_50.items() if case in own} for case in CASES + list(SHARP)}
    sizes = {key[0]: key[1] for key in columns}
    for ax, (case, name) in zip(axes[:, :3].flat, names.items(), strict=True):
        kind, rows = ("plane", "random") if case in SHARP else ("learned", "learned")
        drawn = paint(ax, {key[-1]: cell[case] for key, cell in columns.items() if key[0] == kind}, strong, bayes)
        plots.interval(ax, half[case], color="#d55e00", linestyle="-", label="half of the samples solved, measured")
        ax.set_title(f"{name}, {rows} rows, n = {sizes[kind]}", fontsize=11)
    figure.colorbar(drawn, ax=list(axes[:, 2]), label="share of samples solved")
    ax, ns = axes[0, 3], sorted({key[1] for key in step})
    for delta, colour in plots.category_colours(key[-1] for key in step).items():
        widths = {key[1]: one["width"] for key, one in step.items() if key[-1] == delta}
        plots.interval(ax, widths, color=colour, linestyle="-", label=f"$\\delta$ = {delta:g}")
        plots.reference(ax, ns, widths[ns[0]].value * (np.array(ns) / ns[0]) ** -0.5, "$n^{-1/2}$")
    plots.ticks(ax, x=ns, y=[0.05, 0.1, 0.2, 0.4], log=True)
    ax.set(xlabel="features n", title="l1's step, random rows", ylabel="width, $\\rho_{25} - \\rho_{75}$")
    plots.legend(ax)

    ax, deltas = axes[1, 3], np.array(list(half["network"]))
    cases = {"l1_learned": "learned", "l1_random": "random", "l1_learned_kept": "learned, kept only",
             "l1_random_kept": "random, same dropped"}  # fmt: skip
    for number, (case, colour) in enumerate(plots.category_colours(cases).items()):
        look = {"linestyle": "--", "mfc": "white"} if "kept" in case else {"linestyle": "-"}
        plots.interval(ax, half[case], color=colour, label=cases[case], shift=0.006 * (number - 1.5), **look)
    ax.plot(deltas, l1_weak_threshold(deltas), color="black", linewidth=1, label="weak")
    ax.set(xlabel="$\\delta$ = m / n", ylabel="$\\rho_{50}$", title=f"l1, n = {sizes['learned']}", ylim=(0, 1.55))
    plots.ticks(ax, y=[0, 0.25, 0.5, 0.75, 1])
    plots.legend(ax, loc="upper center", ncols=2, size=9)
    plots.legend(figure)
    return figure


def paint(ax: plots.Axes, cells: dict[float, Column], strong: dict, bayes: tuple) -> Any:
    """Columns of cells, one for each delta with rho of its own, and the three curves."""
    at = np.array(list(cells))
    inner, reach = (at[1:] + at[:-1]) / 2, at[1] - at[0] if len(at) > 1 else 0.1
    edges = np.concatenate([[max(at[0] - reach / 2, 0)], inner, [min(at[-1] + reach / 2, 1)]])
    for i, one in enumerate(cells.values()):
        own = pd.Series(one.shares.mean(0)).groupby(one.rho).mean()
        sides = np.concatenate([[0], (own.index[1:] + own.index[:-1]) / 2, [1]])
        look = {"vmin": 0, "vmax": 1, "cmap": SHADES, "rasterized": True}
        drawn = ax.pcolormesh(edges[i : i + 2], sides, own.to_numpy()[:, None], **look)
    x = np.linspace(0.02, 0.98, 49)
    ax.plot(x, l1_weak_threshold(x), color="black", label="l1, weak (typical samples)")
    ax.plot(list(strong), list(strong.values()), color="black", linestyle=":", label="l1, strong (all samples)")
    ax.plot(*bayes, color="black", linestyle="--", label="Bayes-optimal AMP")
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="$\\delta$ = m / n", ylabel="$\\rho$ = k / m", facecolor="0.9")
    return drawn


if __name__ == "__main__":
    experiment(study)
