"""Does capacity grow as the square of the width, n = m^2 f(1 - S), as Katta's note (2024) speculates?

A scheme that stores n = m^2 f(1 - S) features in m neurons would let half the neurons hold the same features. The
exponent of the width in what networks really hold is measured in two settings that differ in what is asked:
representation (sparse features through m dimensions at fixed density p; the neurons are all there is) and memory (facts
about K active keys stored in the weights of residual blocks; parameters grow as d^2). Capacity is the supremum of
recovered features (F_eff, for facts bits / log2 C) over the load, at each width; each seed gives one exponent, the
slope of ln capacity against ln width.

The scheme holds if the exponent is 2, within .1, in both settings: `quadratic_representation_p*`, `quadratic_memory_K*`
and `quadratic_everywhere`. `linear_representation`: the exponent there is 1, within .1. Controls: untrained networks;
twice the steps; every learning rate alone (each width is read at its own best); whether the best load and the best rate
lie inside what was offered. Reference lines: slopes 1 and 2.

Two cores: --quick about 40 s, default about 5 minutes.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from toysup import plots, report, stats
from toysup.ensemble import Trained
from toysup.features import OnePerGroup, SparseUniform
from toysup.measure import Estimate, recovered
from toysup.models import ResidualMLP, TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity, Memory
from toysup.theory import elhage_ratio

QUESTION = "Does a layer of m neurons hold a number of features that grows as m^2, as the note speculates?"
LABELS, DEPTH = 4, 2


def untrained(trained: Trained) -> Estimate:
    """Recovered before the first step."""
    return recovered(trained.at(0))


def representation(run: report.Run, density: float, length: float = 1) -> Grid:
    """Widths x loads x rates x seeds at one density."""
    steps = round(length * run.pick(default=2000, quick=500, smoke=8))
    widths = run.pick(default=[8, 12, 16, 24, 32, 48], quick=[8, 12, 16], smoke=[4, 6])
    loads = run.pick(default=[0.5, 0.75, 1.0, 1.5], smoke=[0.5, 1.0])
    rates = run.pick(default=[0.01, 0.02, 0.04], quick=[0.02], smoke=[0.02])
    sizes = [(round(load * m * float(elhage_ratio(density))), m) for m in widths for load in loads]
    optimizer = Adam(beta2=0.99, schedule=Cosine())
    setting = Setting(SparseUniform(8, density), Identity(), Model(TiedAutoencoder, width=4), optimizer, steps, 512)
    axes = {("features.n_features", "model.width"): sizes, "optimizer.lr": rates}
    return Grid(setting, axes | {"seed": range(run.pick(default=8, quick=3, smoke=2))})


def memory(run: report.Run, active: int, length: float = 1) -> Grid:
    """The same for facts, K active at once, in two blocks of every width."""
    steps = round(length * run.pick(default=3000, quick=600, smoke=100))
    widths = run.pick(default=[16, 24, 32, 48], quick=[8, 12, 16], smoke=[8, 12])
    loads = run.pick(default=2.0 ** np.arange(-1.5, 1.1, 0.5) if active == 1 else 2.0 ** np.arange(-4.5, -0.4, 0.8),
                     smoke=[0.5, 1.0])  # facts offered per live parameter  # fmt: skip
    rates = run.pick(default=[0.0075, 0.015, 0.03], quick=[0.02], smoke=[0.02])
    shapes = [Shape(width, DEPTH) for width in widths]
    most = [active * round(max(loads) * s.live_parameters(active * LABELS) / active) for s in shapes]
    model = Model(ResidualMLP, shape=shapes[0], unembedding="coordinates")
    optimizer = Adam(beta2=0.99, schedule=Cosine())
    setting = Setting(OnePerGroup(most[0], active), Memory(LABELS), model, optimizer, steps, 512)
    axes = {
        ("model.shape", "model.row_norm", "features.n_features"): [
            (shape, math.sqrt(shape.width), n) for shape, n in zip(shapes, most, strict=True)
        ],
        "features.offered": [float(load / max(loads)) for load in loads],
        "optimizer.lr": rates,
    }
    return Grid(setting, axes | {"seed": range(run.pick(default=8, quick=3, smoke=2))})


def capacities(table: pd.DataFrame, load: str, count: str = "recovered") -> pd.DataFrame:
    """One row per (width, seed): capacity, and whether the best load and learning rate lie inside the ranges."""
    rows = []
    for width, own in table.groupby("width"):
        best = stats.best_setting(own, "lr", [load], count)
        found = stats.capacity(best, load=load, recovered=count)
        rate = best.loc[best[load].isin(found["load"]), "lr"].iloc[0]
        inside = (found["load"] < own[load].max()).all()
        bracketed = own["lr"].min() < rate < own["lr"].max()
        rows.append(found.reset_index().assign(width=width, inside=inside, bracketed=bracketed, lr=rate))
    return pd.concat(rows, ignore_index=True)


def exponent(found: pd.DataFrame) -> stats.Interval:
    """Mean over seeds of the slope of ln capacity against ln width; undefined where a seed recovered nothing."""
    counts = found.pivot(index="seed", columns="width", values="recovered")
    if (counts <= 0).any(axis=None):
        return stats.UNDEFINED
    return stats.mean(np.polyfit(np.log(counts.columns.to_numpy(float)), np.log(counts.to_numpy()).T, 1)[0])


def main(run: report.Run) -> None:
    densities, actives = run.pick(default=[0.1, 0.02], smoke=[0.1]), run.pick(default=[1, 4], smoke=[1])
    grids = {f"representation_p{p:g}": representation(run, p) for p in densities}
    grids |= {f"memory_K{k}": memory(run, k) for k in actives}
    longer = {"representation_p0.1": representation(run, 0.1, 2), "memory_K1": memory(run, 1, 2)}
    options = {"results": run.results, "device": run.device, "workers": run.workers}
    answers = sweep(grids | {f"{name}_longer": grid for name, grid in longer.items()},
                    [recovered, untrained], snapshots=(0,), **options)  # fmt: skip
    statistics, verdict, found = {}, {}, {}
    controls = {name: {} for name in ("untrained_share", "inside", "bracketed", "by_rate", "longer")}
    for name, answer in answers.items():
        load = "n_features" if name.startswith("representation") else "offered"
        found[name] = capacities(answer.table, load)
        slope = exponent(found[name])
        if name.endswith("_longer"):
            controls["longer"][name.removesuffix("_longer")] = slope
            continue
        statistics[f"{name}_exponent"] = slope
        verdict[f"quadratic_{name}"] = stats.decide(slope, (1.9, 2.1))
        if load == "n_features":
            verdict[f"linear_{name}"] = stats.decide(slope, (0.9, 1.1))
        controls["untrained_share"][name] = float(
            answer.table["untrained"].max() / max(found[name]["recovered"].max(), 1e-9)
        )
        controls["inside"][name] = bool(found[name]["inside"].all())
        controls["bracketed"][name] = found[name].groupby("width")["bracketed"].first().to_dict()
        controls["by_rate"][name] = {
            f"{lr:g}": exponent(capacities(own, load)) for lr, own in answer.table.groupby("lr")
        }
    verdict["quadratic_everywhere"] = stats.every(*(v for k, v in verdict.items() if k.startswith("quadratic_")))
    engine = ", ".join(sorted({e for answer in answers.values() for e in answer.table["engine"]}))
    steps = int(max(answer.table["steps"].max() if "steps" in answer.table else answer.grid.setting.steps
                    for answer in answers.values()))  # fmt: skip
    report.write(run, draw({name: found[name] for name in grids}, statistics), statistics=statistics, verdict=verdict,
                 controls=controls, engine=engine, instances=sum(len(answer.grid) for answer in answers.values()),
                 steps=steps, seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def draw(found: dict[str, pd.DataFrame], statistics: dict) -> plots.Figure:
    """Capacity against width, both axes logarithmic, with lines of slope 1 and 2."""
    figure, axes = plots.figure(1, 2, width=12, height=4.6)
    colours = plots.category_colours(found)
    titles = {"representation": "features through m neurons", "memory": "facts in weights"}
    for ax, (kind, title) in zip(axes[0], titles.items(), strict=True):
        for name, own in found.items():
            if name.startswith(kind):
                slope = statistics[f"{name}_exponent"]
                label = f"{name.split('_')[1]}: width^{slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}]"
                plots.band(ax, own.assign(**{label: own["recovered"]}), "width", label)
                line, shade = ax.lines[-1], ax.collections[-1]
                line.set(color=colours[name], label=label)
                shade.set_color(colours[name])
                start = own.groupby("width")["recovered"].mean().iloc[0]
                widths = np.array(sorted(own["width"].unique()), dtype=float)
                for power, style in ((1, ":"), (2, "--")):
                    ax.plot(widths, start * (widths / widths[0]) ** power, color=plots.GREY, linestyle=style, zorder=1)
        ax.plot([], [], color=plots.GREY, linestyle=":", label="proportional to width")
        ax.plot([], [], color=plots.GREY, linestyle="--", label="to its square (the note's scheme)")
        ax.set(xscale="log", yscale="log", xlabel="width (neurons in a layer)", ylabel="capacity (features, facts)",
               title=title)  # fmt: skip
        ax.set_xticks(widths, [f"{w:g}" for w in widths])
        ax.minorticks_off()
        ax.legend(fontsize=9)
    means = {kind: [statistics[f"{n}_exponent"].value for n in found if n.startswith(kind)] for kind in
             ("representation", "memory")}  # fmt: skip
    said = {kind: f"{min(v):.2f} to {max(v):.2f}" if len(v) > 1 else f"{v[0]:.2f}" for kind, v in means.items()}
    figure.suptitle(
        f"Capacity grows as width to the {said['representation']} where neurons carry it, {said['memory']} where"
        " weights do",
        fontsize=14,
    )
    return figure


if __name__ == "__main__":
    report.experiment(main)
