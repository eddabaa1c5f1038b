"""Which features does a toy model represent? Training beside the exact optimum, over density and importance.

Tied ReLU autoencoders x' = ReLU(W W^T x + b), as in "Superposition as a phase change" of Elhage et al. 2022: all
features share one density, and the last one's importance is 0.1 to 10 times the others'. Beside them stands the global
optimum of the expected loss, integrated exactly over every support (`theory.toy_optimum`); the same code names both. If
training finds the optimum, the maps agree up to cells where two configurations lose nearly the same; what agreement is
worth, names in random order say. Two cores: --quick half a minute, default 5, --full (256 x 256 cells x 4 seeds) 12.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from toysup import plots, stats
from toysup.ensemble import Trained
from toysup.features import SparseUniform
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.study import Check, Claim, Finding, Run, Study, experiment
from toysup.sweep import Grid
from toysup.tasks import Identity
from toysup.theory import configuration, expected_loss, toy_optimum

QUESTION = "Which features does a toy model represent, at which density and importance, and is it the optimum?"
RESOLUTION = 1e-6  # of the loss: what float32 weights can resolve
CELL, NAMES, SWAPPED = ["density", "importance"], ["trained", "optimal"], str.maketrans("12", "21")


class Map(NamedTuple):
    n: int  # features
    m: int  # dimensions
    across: int  # cells along each side


def exact_loss(trained: Trained) -> torch.Tensor:
    """Expected loss by integration: no sampling error."""
    W, b = (trained.parameters[name].double().numpy() for name in ("W", "b"))
    density, importance = (trained.values[name].double().numpy() for name in ("features.density", "task.importance"))
    return torch.from_numpy(expected_loss(W, b, density, importance))


def study(run: Run) -> Study:
    size = run.sizes(dict(maps=((2, 1, 128), (3, 2, 48)), steps=10_000, batch=1024, seeds=4),
                     quick=dict(maps=((2, 1, 48), (3, 2, 24)), steps=3000, batch=512), full=dict(maps=((2, 1, 256),)),
                     smoke=dict(maps=((2, 1, 4), (3, 2, 4)), steps=20, batch=64, seeds=2))  # fmt: skip

    def grid(cell: Map) -> Grid:
        model, optimizer = Model(TiedAutoencoder, width=cell.m), Adam(lr=0.01, schedule=Cosine())
        setting = Setting(SparseUniform(cell.n, 0.1), Identity(), model, optimizer, size.steps, size.batch)
        importance = {r: np.r_[np.ones(cell.n - 1), r] for r in np.geomspace(0.1, 10, cell.across)}
        return Grid(setting, {"features.density": np.geomspace(1, 0.01, cell.across), "task.importance": importance})

    by, each = ("n", "m"), "n{n}_m{m}_"
    return Study(
        [Map(*own) for own in size.maps], grid, measures=[exact_loss], seeds=size.seeds,
        findings={"cells": Finding(cells, by, kept=False), "map": Finding(agreement, by, each + "{column}")},
        claims=[
            Claim("predicted_by_theory", "in over 90% of cells the best seed represents what the exact optimum does",
                  "map.agreement", (0.9, 1), each=each + "predicted_by_theory"),
            Claim("near_optimum", "in 95% of cells the best seed loses less than 1% of the zero predictor's loss more",
                  "map.excess_95th_percentile", (-np.inf, 0.01), each=each + "near_optimum"),
            Check("optimum_never_beaten", "no network beats the exact optimum by more than float32 resolves",
                  lambda map: map["lowest_relative_excess"] >= -RESOLUTION, by=by, each=each + "optimum_never_beaten"),
            Check("zero_predictor_beaten", "no network loses more than one that puts out 0",
                  lambda cells: (cells["exact_loss"] <= cells["zero"] * (1 + RESOLUTION)).all(), by=by),
        ],
        draw=draw, answer=answer,
    )  # fmt: skip


def cells(rows: pd.DataFrame, networks: Callable[[pd.DataFrame], Trained], n: int, m: int) -> pd.DataFrame:
    """Each network's configuration, beside its cell's optimum; `best`: of the seed that loses least. Features of equal
    importance (all but the last) are not told apart."""
    places = rows[CELL].drop_duplicates().sort_values(CELL)
    importance = np.column_stack([np.ones((len(places), n - 1)), places["importance"]])
    optimum = toy_optimum(n, m, places["density"].to_numpy(), importance)
    places["optimal"] = [min(name, name.translate(SWAPPED)) for name in optimum.name]
    places = places.assign(optimum=optimum.loss, zero=importance.sum(1) * places["density"] / 3)
    found = configuration(networks(rows).parameters["W"].numpy())
    rows = rows.assign(trained=[min(name, name.translate(SWAPPED)) for name in found]).merge(places, on=CELL)
    rows["best"] = rows.index.isin(rows.groupby(CELL)["exact_loss"].idxmin())
    return rows.assign(excess=(rows["exact_loss"] - rows["optimum"]) / rows["zero"])


def agreement(cells: pd.DataFrame) -> dict[str, stats.Interval | float]:
    """All cells start from the same few seeds: seeds are the sample for the share that reaches the optimum's loss."""
    reached = cells["exact_loss"] - cells["optimum"] < 0.01 * cells["zero"]
    best = cells[cells["best"]]
    trained, optimal = (best[name].value_counts(normalize=True) for name in NAMES)
    return {"agreement": stats.share(int((best["trained"] == best["optimal"]).sum()), len(best)),
            "excess_95th_percentile": stats.quantile(best["excess"].to_numpy(), 0.95),
            "seeds_at_optimum": stats.mean(reached.groupby(cells["seed"]).mean(), bounds=(0, 1)),
            "agreement_if_shuffled": trained.mul(optimal, fill_value=0).sum(),
            "lowest_relative_excess": ((best["exact_loss"] - best["optimum"]) / best["optimum"]).min()}  # fmt: skip


def answer(map: dict) -> str:
    told = [f"{own['agreement'].value:.1%} of cells with {n} features in {m} dimension{'s' * (m > 1)} "
            f"({own['agreement_if_shuffled']:.0%} by chance)" for (n, m), own in map.items()]  # fmt: skip
    return f"The best of several seeds represents the same features as the exact optimum in {' and '.join(told)}."


def draw(cells: dict, miss: str = "excess loss, % of zero predictor's") -> plots.Figure:
    """Trained map, exact map, its boundaries on all, and the excess loss where the two differ."""
    figure, axes = plots.figure(len(cells), 3, width=13, height=4.2)
    for row, ((n, m), own) in zip(axes, cells.items(), strict=True):
        own = own[own["best"]].assign(**{miss: 100 * own["excess"].clip(lower=0)})
        differ, common = own[own["trained"] != own["optimal"]], own[NAMES].stack().value_counts(normalize=True)
        own[NAMES] = own[NAMES].where(own[NAMES].isin(common.index[common > 0.003][:8]), "other")
        colours = plots.category_colours(own[NAMES].stack().value_counts().index)
        titles = f"trained, n = {n}, m = {m}: best seed", "exact optimum", "what the best seed misses"
        for ax, value, title in zip(row, [*NAMES, miss], titles, strict=True):
            look = {"colours": colours} if value in NAMES else {"cmap": "magma_r", "vmin": 0, "vmax": 1}
            plots.phase_map(ax, own, *CELL, value, **look)
            plots.boundaries(ax, own.pivot(index="importance", columns="density", values="optimal"))
            ax.invert_xaxis()
            ax.set(xlabel="density p = 1 - S", ylabel="relative importance r of the last feature", title=title)
            ax.label_outer()
        row[2].plot(differ["density"], differ["importance"], "x", color="#0173b2", markersize=3, label="names differ")
        plots.legend(row[1], colours, below=True, only=True, ncols=2, size=9)
        plots.legend(row[2], loc="upper right", size=9)
    return figure


if __name__ == "__main__":
    experiment(study)
