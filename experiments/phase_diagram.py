"""Which features does a toy model represent? Training beside the exact optimum, over density and importance.

Tied ReLU autoencoders x' = ReLU(W W^T x + b) with (n, m) = (2, 1) and (3, 2), as in "Superposition as a phase change"
of Elhage et al. 2022: all features share one density, and the last one's importance r is 0.1 to 10 times the others'.
Beside the trained networks stands the global optimum of the expected loss, integrated exactly over every support
(`toysup.theory.toy_optimum`), and the same code names both configurations.

If training finds the optimum, the two maps agree up to cells where two configurations lose nearly the same. The rule:
a map is predicted by theory if the 95% interval of the share of cells whose best of several seeds has the optimum's
configuration lies above 90%, and training is near the optimum if the 95th percentile of that seed's excess loss lies
below 1% of the zero predictor's loss. Controls: no network may beat the optimum by more than float32 resolves, none
may lose to the zero predictor, and trained names shuffled among the cells say what agreement is worth.

Two cores: --quick half a minute, default about 5 (128 x 128 cells x 4 seeds at (2, 1), 48 x 48 x 4 at (3, 2)). --full
is 256 x 256 cells x 4 seeds at (2, 1), 2.6e9 instance-steps of batch 1024, in 12 minutes (11 of them training).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from toysup import plots, report, stats
from toysup.ensemble import Trained
from toysup.features import SparseUniform
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity
from toysup.theory import configuration, expected_loss, toy_optimum

QUESTION = "Which features does a toy model represent, at which density and importance, and is it the optimum?"
RESOLUTION = 1e-6  # of the loss: what float32 weights can resolve


def exact_loss(trained: Trained) -> torch.Tensor:
    """Expected loss by integration: no sampling error."""
    W, b = (trained.parameters[name].double().numpy() for name in ("W", "b"))
    density, importance = (trained.values[name].double().numpy() for name in ("features.density", "task.importance"))
    return torch.from_numpy(expected_loss(W, b, density, importance))


def grid_of(n: int, m: int, run: report.Run) -> Grid:
    """Cells x seeds: everything but the shape varies inside one stack."""
    cells = run.pick(default=128 if n == 2 else 48, quick=48 if n == 2 else 24, smoke=4, full=256)
    setting = Setting(
        SparseUniform(n, 0.1),
        Identity(),
        Model(TiedAutoencoder, width=m),
        Adam(lr=0.01, schedule=Cosine()),
        steps=run.pick(default=10_000, quick=3000, smoke=20),
        batch=run.pick(default=1024, quick=512, smoke=64),
    )
    ratios = np.geomspace(0.1, 10, cells)
    axes = {
        "features.density": np.geomspace(1, 0.01, cells),
        "task.importance": {ratio: np.r_[np.ones(n - 1), ratio] for ratio in ratios},
        "seed": range(run.pick(default=4, smoke=2)),
    }
    return Grid(setting, axes)


def unnumbered(name: str, n: int) -> str:
    """The name with features of equal importance (all but the last) told apart no longer."""
    return min(name, name.translate(str.maketrans("12", "21"))) if n == 3 else name


def compared(n: int, m: int, table: pd.DataFrame, weights: np.ndarray) -> tuple[pd.DataFrame, pd.Series]:
    """One row per cell: the best seed's loss and configuration, and the optimum's. And each seed's share of cells in
    which it reached the optimum: all cells start from the same few seeds, so seeds are what the interval is over."""
    names = np.array([unnumbered(name, n) for name in configuration(weights)])
    table = table.assign(trained=names)
    best = table.loc[table.groupby(["density", "importance"])["exact_loss"].idxmin()].reset_index(drop=True)
    importance = np.column_stack([np.ones((len(best), n - 1)), best["importance"]])
    optimum = toy_optimum(n, m, best["density"].to_numpy(), importance)
    zero = importance.sum(1) * best["density"] / 3
    best = best.assign(optimal=[unnumbered(name, n) for name in optimum.name], optimum=optimum.loss, zero=zero)
    seeds = table.merge(best[["density", "importance", "optimum", "optimal", "zero"]])
    seeds["reached"] = seeds["exact_loss"] - seeds["optimum"] < 0.01 * seeds["zero"]
    worst = seeds.groupby(["density", "importance"])["exact_loss"].max().rename("worst").reset_index()
    best["excess"] = (best["exact_loss"] - best["optimum"]) / best["zero"]
    return best.merge(worst), seeds.groupby("seed")["reached"].mean()


def main(run: report.Run) -> None:
    sizes = run.pick(default=[(2, 1), (3, 2)], full=[(2, 1)])
    grids = {f"phases_{n}_{m}": grid_of(n, m, run) for n, m in sizes}
    answers = sweep(grids, [exact_loss], results=run.results, device=run.device, workers=run.workers)
    statistics, verdict, controls, maps = {}, {}, {}, {}
    rng = np.random.default_rng(0)
    for (n, m), answer in zip(sizes, answers.values(), strict=True):
        cells, reached = compared(n, m, answer.table, answer.parameters("W"))
        maps[n, m], name = cells, f"n{n}_m{m}"
        agree = int((cells["trained"] == cells["optimal"]).sum())
        agreement = stats.share(agree, len(cells))
        excess = stats.quantile(cells["excess"].to_numpy(), 0.95)
        statistics |= {f"{name}_agreement": agreement, f"{name}_excess_95th_percentile": excess}
        statistics[f"{name}_seeds_at_optimum"] = stats.mean(reached)
        verdict[f"{name}_predicted_by_theory"] = stats.decide(agreement, (0.9, 1))
        verdict[f"{name}_near_optimum"] = stats.decide(excess, (-np.inf, 0.01))
        shuffled = stats.share(int((rng.permutation(cells["trained"]) == cells["optimal"]).sum()), len(cells))
        low = float(((cells["exact_loss"] - cells["optimum"]) / cells["optimum"]).min())
        beaten, lost = low < -RESOLUTION, bool((cells["worst"] > cells["zero"] * (1 + RESOLUTION)).any())
        verdict[f"{name}_optimum_never_beaten"] = "rejected" if beaten else "supported"
        controls[name] = {"agreement_if_shuffled": shuffled, "lowest_relative_excess": low, "lost_to_zero": lost}
    setting = next(iter(grids.values())).setting
    engine = ", ".join(sorted({e for answer in answers.values() for e in answer.table["engine"]}))
    report.write(run, draw(maps, statistics), statistics=statistics, verdict=verdict, controls=controls, engine=engine,
                 instances=sum(map(len, grids.values())), steps=setting.steps,
                 seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def draw(maps: dict, statistics: dict) -> plots.Figure:
    """Trained map, exact map with its boundaries on both, and the excess loss where the two differ."""
    figure, axes = plots.figure(len(maps), 3, width=13, height=4.2)
    for row, ((n, m), cells) in zip(axes, maps.items(), strict=True):
        common = cells[["trained", "optimal"]].stack().value_counts(normalize=True)
        shown = list(common[common > 0.003].index[:8])
        cells = cells.assign(**{c: cells[c].where(cells[c].isin(shown), "other") for c in ("trained", "optimal")})
        used = [name for name in [*shown, "other"] if (cells[["trained", "optimal"]] == name).any(axis=None)]
        colours = plots.category_colours(used)
        titles = (
            f"trained, n={n}, m={m}: best seed",
            "exact optimum",
            "what the best seed misses",
        )
        plots.phase_map(row[0], cells, "density", "importance", "trained", colours=colours)
        plots.phase_map(row[1], cells, "density", "importance", "optimal", colours=colours)
        percent = cells.assign(**{"excess loss, % of zero predictor's": 100 * cells["excess"].clip(lower=0)})
        plots.phase_map(row[2], percent, "density", "importance", percent.columns[-1], cmap="magma_r", vmin=0, vmax=1)
        differ = cells[cells["trained"] != cells["optimal"]]
        row[2].plot(differ["density"], differ["importance"], "x", color="#0173b2", markersize=3, label="names differ")
        if len(differ):
            row[2].legend(loc="upper right", fontsize=9, frameon=True)
        code = cells.assign(code=cells["optimal"].map({name: i for i, name in enumerate(colours)}))
        lines = code.pivot(index="importance", columns="density", values="code")
        for ax, title in zip(row, titles, strict=True):
            plots.boundaries(ax, lines)
            ax.invert_xaxis()
            ax.set(title=title, xlabel="density p = 1 - S", ylabel="relative importance r of the last feature")
            ax.label_outer()
        plots.axes_legend(row[1], colours, below=0.22 if row[1] in axes[-1] else 0.08)
    told = ", ".join(f"{statistics[f'n{n}_m{m}_agreement'].value:.1%} of cells at n={n}, m={m}" for n, m in maps)
    figure.suptitle(f"The best of several seeds finds the exact optimum's configuration in {told}", fontsize=14)
    return figure


if __name__ == "__main__":
    report.experiment(main)
