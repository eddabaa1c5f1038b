"""Do ReLU autoencoders store more features than they have dimensions, and in which geometry; do linear ones ever?

"Demonstrating Superposition" and the introduction's figure of Elhage et al. 2022, tied autoencoders with falling
importances: n = 5, m = 2, I = 0.9^i at sparsity S = 0, 0.8 and 0.9; n = 20, m = 5, I = 0.7^i; n = 80, m = 20,
I = 0.9^i. The paper shows one network of each. It says: dense features give the m most important ones a dimension each,
as a linear model always does (PCA); at S = 0.8 the four most important of five form two antipodal pairs, at S = 0.9 all
five a pentagon; more features share dimensions the sparser they are, the less important ones first, as antipodal pairs
first; n = 80 looks like n = 20 rescaled. Ours are shares of seeds, configurations named by `geometry.arrangements` (a
feature is represented where |W_i|^2 > 1/4, two interfere where their angle is over 15 degrees off a right one).
Settings are the paper's. Two cores: --quick under a minute, default about 6.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps

from toysup import geometry, plots, stats
from toysup.features import SparseUniform
from toysup.measure import packing
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.study import Claim, Finding, Run, Study, Variant, experiment
from toysup.sweep import Grid
from toysup.tasks import Identity
from toysup.theory import expected_loss, toy_optimum

QUESTION = "Do ReLU autoencoders store more features than dimensions, in which geometry, and do linear ones ever?"
SIZES = {5: (2, 0.9), 20: (5, 0.7), 80: (20, 0.9)}  # n -> m, base of the importances
DENSITIES = {5: [1.0, 0.2, 0.1], 20: [1.0, 0.3, 0.1, 0.03, 0.01, 0.001], 80: [1.0, 0.1, 0.01, 0.001]}
PAPER = {1.0: "2 points, 3 ignored", 0.2: "2 digons, 1 ignored", 0.1: "pentagon"}
FIVE, TWENTY, RELU = ({"n": n, "relu": [True]} for n in ([5], [20], [20, 80]))


class Cell(NamedTuple):
    n: int
    relu: bool
    density: float

    m = property(lambda self: SIZES[self.n][0])
    S = property(lambda self: f"S{100 * (1 - self.density):.0f}")


def importances(n: int) -> np.ndarray:
    return SIZES[n][1] ** np.arange(n)


def study(run: Run) -> Study:
    size = run.sizes(dict(steps=10_000, batch=1024, seeds={5: 1024, 20: 64, 80: 32}, draws=20_000),
                     quick=dict(steps=5000, batch=512, seeds={5: 128, 20: 8, 80: 2}),
                     smoke=dict(steps=10, batch=64, seeds={5: 4, 20: 2, 80: 2}, draws=200))  # fmt: skip

    def grid(cell: Cell) -> Grid:
        model = Model(TiedAutoencoder, width=cell.m, relu=cell.relu)
        world, task = SparseUniform(cell.n, cell.density), Identity(importances(cell.n))
        setting = Setting(world, task, model, Adam(weight_decay=0.01), size.steps, size.batch)
        return Grid(setting, {"seed": range(size.seeds[cell.n])})

    def otherwise(**changed) -> Variant:
        """Five features, a quarter of the seeds."""
        fewer = {"seed": range(max(2, size.seeds[5] // 4))}
        return Variant(lambda grid: Grid(replace(grid.setting, **changed), fewer), lambda cell: cell[:2] == (5, True))

    def chance() -> dict[str, float]:
        """How often five random directions in the plane, of length 1, get the paper's names."""
        W = np.random.default_rng(0).standard_normal((size.draws, 5, 2))
        words = geometry.arrangements(W / np.linalg.norm(W, axis=-1, keepdims=True))
        return {name: float((words == name).mean()) for name in PAPER.values()}

    return Study(
        [Cell(n, relu, p) for n in SIZES for relu in (True, False) for p in DENSITIES[n][: None if relu else 3]],
        grid, measures=[packing], derive=named,
        variants={"twice the steps": otherwise(steps=2 * size.steps),
                  "another rate": otherwise(optimizer=Adam(lr=0.01, weight_decay=0.01, schedule=Cosine()))},
        findings={
            "optimum": Finding(lambda: toy_optimum(5, 2, np.array(DENSITIES[5]), np.tile(importances(5), (3, 1))),
                               kept=False),
            "named_by_chance": Finding(chance),
            "paper": Finding(paper, ["density", "S"], "{S}_{column}", FIVE),
            "commonest": Finding(lambda rows: rows["words"].value_counts(normalize=True).head(1).to_dict(),
                                 ["variant", "density"], where=FIVE, variant=None),
            "S0_top_two": Finding(lambda rows: stats.share(rows["top_alone"]), (), "{column}", FIVE | {"S": "S0"}),
            "S80_four_most_important": Finding(lambda rows: stats.share((rows["words"] == PAPER[0.2]) & ~rows["last"]),
                                               (), "{column}", FIVE | {"S": "S80"}),
            "counts": Finding(counts, ["n", "density"], "n{n}_{column}_at_{density:g}", RELU),
            "rising": Finding(rising, "n", "n{n}_more_per_tenfold_sparser", RELU),
            "linear": Finding(lambda rows: {"superposed": stats.share(rows["superposed"]),
                                            "top_m": stats.share(rows["top_alone"])}, (), "linear_{column}",
                              {"relu": [False]}),
            "later": Finding(lambda rows: stats.mean(rows["later"], skipna=True), (),
                             "n20_rank_of_interfering_less_rank_of_others", TWENTY | {"density": 0.3}),
            "digons": Finding(lambda rows: share(rows["in_digons"] / rows["sharing"]), "density",
                              "n20_share_in_digons_at_{density:g}", TWENTY | {"density": [0.3, 0.001]}),
            "rescaled": Finding(rescaled, "density", "n80_over_n20_at_{density:g}", RELU | {"density": DENSITIES[80]}),
        },
        claims=[
            Claim("S0_top_two", "dense, the two most important of five are kept in most seeds", "S0_top_two", (0.5, 1)),
            Claim("S80_two_antipodal_pairs", "at S = 0.8 most seeds form two antipodal pairs",
                  "paper.paper_configuration", (0.5, 1), where={"S": "S80"}),
            Claim("S80_of_the_four_most_important", "at S = 0.8 most seeds form these of the four most important",
                  "S80_four_most_important", (0.5, 1)),
            Claim("S90_pentagon", "at S = 0.9 most seeds form a pentagon", "paper.paper_configuration", (0.5, 1),
                  where={"S": "S90"}),
            Claim("pictures_are_optimal", "the exact optimum has the paper's configuration at all three sparsities",
                  lambda optimum: list(geometry.arrangements(optimum.weights)) == list(PAPER.values())),
            Claim("grows_with_sparsity", "the sparser, the more features share dimensions", "rising", (0, np.inf),
                  each="n{n}_grows_with_sparsity", combine=None),
            Claim("linear_never_superposes", "under 1% of linear networks superpose", "linear.superposed", (0, 0.01)),
            Claim("linear_keeps_top_m", "over 95% of linear networks keep just the most important features",
                  "linear.top_m", (0.95, 1)),
            Claim("less_important_first", "less important features share first (n = 20)", "later", (0, np.inf)),
            Claim("antipodal_pairs_first", "features share as antipodal pairs at density 0.3, no longer at 0.001",
                  "digons", lambda density: (0.9, 1) if density == 0.3 else (0, 0.5)),
            Claim("larger_is_rescaled", "n = 80 shares as n = 20 does, within 25%", "rescaled", (0.75, 1.25)),
        ],
        draw=draw, answer=answer,
    )  # fmt: skip


def named(table: pd.DataFrame, networks) -> pd.DataFrame:
    """With what each network's features form, in words, and the exact loss of n = 5."""
    parts = []
    for (n, relu, density, _), rows in table.groupby(["n", "relu", "density", "variant"], sort=False):
        W, b = (networks(rows).parameters[name].numpy() for name in "Wb")
        own = {"words": geometry.arrangements(W), "last": np.square(W[:, -1]).sum(-1) > 0.25}
        if n == 5 and relu:
            own["loss"] = expected_loss(W, b, np.full(len(W), density), np.tile(importances(5), (len(W), 1)))
        parts.append(rows.assign(per_dimension=rows["represented"] / rows["m"], **own))
    return pd.concat(parts)


def share(of: pd.Series) -> stats.Interval:
    return stats.mean(of, bounds=(0, 1), skipna=True)


def paper(rows: pd.DataFrame, density: float, optimum) -> dict:
    """Seeds with the paper's configuration, and within 1% of the optimum's loss; what is optimal and what is found."""
    at, best = DENSITIES[5].index(density), rows.loc[rows["loss"].idxmin()]
    return {"paper_configuration": stats.share(rows["words"] == PAPER[density]),
            "at_optimum": stats.share(rows["loss"] < 1.01 * optimum.loss[at]), "best_network": best["words"],
            "optimum": geometry.arrangements(optimum.weights)[at], "lowest_excess": best["loss"] / optimum.loss[at] - 1,
            "shares": rows["words"].value_counts(normalize=True).to_dict()}  # fmt: skip


def counts(rows: pd.DataFrame) -> dict[str, stats.Interval]:
    return {"features_per_dimension": stats.mean(rows["per_dimension"]),
            "share_interfering": share(rows["sharing"] / rows["represented"])}  # fmt: skip


def rising(rows: pd.DataFrame) -> stats.Interval:
    """Features per dimension for each tenfold fall of the density, by seed."""
    return stats.mean([np.polyfit(-np.log10(own["density"]), own["per_dimension"], 1)[0]
                       for _, own in rows.groupby("seed")])  # fmt: skip


def rescaled(rows: pd.DataFrame) -> stats.Interval:
    per = rows["per_dimension"]
    return stats.ratio(per[rows["n"] == 80], per[rows["n"] == 20])


def answer(paper: dict, linear: dict) -> str:
    _, pairs, pentagon = (own["paper_configuration"].value for own in paper.values())
    return (f"With features off 80% of the time {pairs:.0%} of ReLU networks store them as two opposite pairs, at 90% "
            f"{pentagon:.0%} as a pentagon; {linear['superposed'].value:.1%} of linear ones superpose.")  # fmt: skip


def draw(rows: pd.DataFrame, networks) -> plots.Figure:
    """n = 5: the commonest configurations. Counts against density. n = 20: W W^T, norms and interference."""

    def chosen(n: int, relu: bool, density: float) -> tuple[np.ndarray, str, float]:
        """The network of lowest training loss in the commonest configuration; its name and the share of seeds."""
        asked = rows[(rows["n"] == n) & (rows["relu"] == relu) & (rows["density"] == density)]
        own = asked[asked["words"] == asked["words"].mode().iloc[0]]
        W = networks(own.nsmallest(1, "train_loss")).parameters["W"][0].numpy()
        return W, own["words"].iloc[0], len(own) / len(asked)

    figure = plots.Figure(figsize=(13, 12.5), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    left, right = upper.subfigures(1, 2, width_ratios=[1.35, 1])
    for relu, panels in zip((False, True), left.subplots(2, 3), strict=True):
        for density, ax in zip(DENSITIES[5], panels, strict=True):
            W, words, often = chosen(5, relu, density)
            plots.directions(ax, W, colormaps["viridis_r"](np.linspace(0.1, 1, 5)), numbers=True, reach=1.5)
            ax.set_title(f"S = {1 - density:.1f}: {words}\n{often:.0%} of seeds", fontsize=11)
        panels[0].set_ylabel("ReLU model" if relu else "linear model")
    plots.title(left, "n = 5, m = 2: directions in the commonest configuration")
    ax = right.subplots()
    more = rows[rows["n"] > 5].assign(model=lambda rows: np.where(rows["relu"], "ReLU", "linear"),
                                      size=lambda rows: [f"n = {n}, m = {SIZES[n][0]}" for n in rows["n"]])  # fmt: skip
    plots.band(ax, more, "density", "per_dimension", "size", line="model")
    plots.level(ax, 4, "all features")
    ax.set(xscale="log", xlabel="density 1 - S", ylabel="represented features per dimension", ylim=(0, 4.3))
    ax.invert_xaxis()
    plots.legend(ax, loc="center left")
    plots.title(right, "means over seeds, with 95% intervals")
    shown = [(False, 1.0), *((True, density) for density in DENSITIES[20])]
    axes = lower.subplots(2, len(shown), sharex="row", sharey="row")
    for (relu, density), (above, below) in zip(shown, axes.T, strict=True):
        W = chosen(20, relu, density)[0]
        square, norm = np.square(W @ W.T).sum(1), np.linalg.norm(W, axis=1)
        plots.gram(above, W, limit=1.2)
        above.set_title(f"{'ReLU' if relu else 'linear'}, 1 - S = {density:g}", fontsize=11)
        plots.feature_bars(below, norm, (square - norm**4) / np.maximum(norm, 1e-9) ** 2)
    plots.labels(axes, y="feature, by importance")
    plots.colour_bar(axes[0], "$W_i \\cdot W_j$")
    plots.colour_bar(axes[1], "interference")
    plots.title(lower, "n = 20, m = 5: a network of the commonest configuration (represented beyond the dots)")
    return figure


if __name__ == "__main__":
    experiment(study)
