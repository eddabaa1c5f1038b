"""Low activations look polysemantic: is that more than superposition predicts?

Katta's note (2024) remarks that low activations of a feature's unit look polysemantic, and takes it as a hint at
another scheme than superposition. But superposition of independent features says how impure they must be: a readout is
z_i = x_i + interference, so P(feature on | z) = p f1(z) / (p f1(z) + (1 - p) f0(z)) falls where z is small. Purity is
measured on held-out data by level of z, and compared with that posterior twice: `independent` pairs each sample's
feature with another sample's interference (no approximation; only dependence between a feature and its interference can
make a difference), `gaussian` takes the interference as normal.

Worlds: independent features at two densities and two loads (n / m), and as controls that the measure can see more than
superposition: pairs that are always on together, and pairs of which at most one is on. Rules, over seeds: low readouts
(.05 to .25) `look_polysemantic` if their purity is less than half that of high ones (.75 to 1); there is
`nothing_left_to_explain` if measured and independent purity of low readouts differ by less than .01 in every
independent world; `dependence_would_show` if they differ by more than .01 in either dependent one.
`gaussian_is_enough`: the normal form is within .05 at every level. Control: networks before training.

Two cores: --quick about a minute, default about 3 (40 s of training; purity is measured on one core).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from toysup import plots, report, stats
from toysup.features import Correlated, SparseUniform
from toysup.measure.purity import purity
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity

QUESTION = "Are weak activations more polysemantic than superposition of independent features predicts?"
EDGES = np.array([0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 1.0])
LOW, HIGH = slice(0, 4), slice(9, 10)  # .05 to .25, .75 to 1


def worlds(run: report.Run) -> dict[str, Any]:
    """World -> features."""
    n = run.pick(default=128, smoke=16)
    some = {"p = .05, n/m = 8": SparseUniform(n, 0.05), "p = .02, n/m = 8": SparseUniform(n, 0.02)}
    some["p = .05, n/m = 4"] = SparseUniform(n // 2, 0.05)
    some["pairs together"] = Correlated(n, 2, 0.05)
    return some | {"pairs exclusive": Correlated(n, 2, 0.05, anti=True)}


def grid_of(run: report.Run, features: Any) -> Grid:
    """One world, many seeds."""
    steps = run.pick(default=4000, quick=1000, smoke=20)
    model = Model(TiedAutoencoder, width=run.pick(default=16, smoke=4))
    setting = Setting(features, Identity(), model, Adam(0.01, beta2=0.99, schedule=Cosine()), steps, 512)
    return Grid(setting, {"seed": range(run.pick(default=32, quick=8, smoke=2))})


def readings(answer: Any, run: report.Run, snapshot: int | None = None) -> pd.DataFrame:
    """Long table: seed, level, and the three purities with the number of readouts."""
    parts = []
    for trained in answer:
        found = purity(trained if snapshot is None else trained.at(snapshot), EDGES,
                       batches=run.pick(default=32, quick=16, smoke=4))  # fmt: skip
        seeds, levels = np.meshgrid(trained.stack.init_seed, np.arange(len(EDGES) - 1), indexing="ij")
        columns = {name: getattr(found, name).numpy().ravel() for name in found._fields}
        parts.append(pd.DataFrame({"seed": seeds.ravel(), "level": levels.ravel(), **columns}))
    return pd.concat(parts, ignore_index=True)


def pooled(table: pd.DataFrame, column: str, levels: slice) -> pd.Series:
    """Each seed's purity over several levels, weighted by how many readouts each has."""
    chosen = table[table["level"].isin(np.arange(len(EDGES) - 1)[levels])].dropna()
    hits = (chosen[column] * chosen["count"]).groupby(chosen["seed"]).sum()
    return hits / chosen.groupby("seed")["count"].sum()


def main(run: report.Run) -> None:
    given = worlds(run)
    grids = {f"purity_{i}": grid_of(run, features) for i, features in enumerate(given.values())}
    options = {"results": run.results, "device": run.device, "workers": run.workers}
    answers = sweep(grids, [], snapshots=(0,), **options)
    tables = {name: readings(answer, run) for name, answer in zip(given, answers.values(), strict=True)}
    statistics, verdict, controls = {}, {}, {"gaussian_worst_gap": {}, "untrained_low_gap": {}}
    looks, left, shows, normal = [], [], [], []
    for (name, features), answer in zip(given.items(), answers.values(), strict=True):
        table, key = tables[name], name.replace("n/m = ", "load").replace("p = .", "p0.").replace(", ", "_")
        key = key.replace(" ", "_")
        low, high = pooled(table, "measured", LOW), pooled(table, "measured", HIGH)
        gap = stats.mean(low - pooled(table, "independent", LOW))
        statistics[f"{key}_low"], statistics[f"{key}_high"] = stats.mean(low), stats.mean(high)
        statistics[f"{key}_low_minus_independent"] = gap
        before = readings(answer, run, 0)
        controls["untrained_low_gap"][key] = stats.mean(
            pooled(before, "measured", LOW) - pooled(before, "independent", LOW)
        )
        within = stats.decide(gap, 0.01)
        if not isinstance(features, SparseUniform):
            shows.append({"supported": "rejected", "rejected": "supported"}.get(within, within))
            continue
        looks.append(stats.decide(stats.ratio(low, high, paired=True), (0, 0.5)))
        left.append(within)
        by_level = table.assign(off=(table["measured"] - table["gaussian"]))
        gaps = [stats.mean(own["off"].dropna()) for _, own in by_level.groupby("level") if own["off"].notna().any()]
        worst = max(gaps, key=lambda interval: abs(interval.value))
        controls["gaussian_worst_gap"][key] = worst
        normal.append(stats.decide(worst, 0.05))
    verdict["look_polysemantic"] = stats.every(*looks)
    verdict["nothing_left_to_explain"] = stats.every(*left)
    verdict["dependence_would_show"] = stats.some(*shows)
    verdict["gaussian_is_enough"] = stats.every(*normal)
    engine = ", ".join(sorted({e for answer in answers.values() for e in answer.table["engine"]}))
    report.write(run, draw(tables, statistics, given), statistics=statistics, verdict=verdict, controls=controls,
                 engine=engine, instances=sum(map(len, grids.values())), steps=next(iter(grids.values())).setting.steps,
                 seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def draw(tables: dict[str, pd.DataFrame], statistics: dict, given: dict) -> plots.Figure:
    """Purity by level: measured, and what independence and normal interference predict."""
    figure, axes = plots.figure(1, len(tables), width=15, height=4.2, sharey=True)
    colours = plots.category_colours(["measured"])
    middle = (EDGES[1:] + EDGES[:-1]) / 2
    for ax, (name, table) in zip(axes[0], tables.items(), strict=True):
        own = table.assign(readout=middle[table["level"]])
        plots.band(ax, own.rename(columns={"measured": "purity"}), "readout", "purity")
        ax.lines[-1].set(color=colours["measured"], label="measured", linestyle="none")
        means = own.groupby("readout")[["independent", "gaussian"]].mean()
        ax.plot(means.index, means["independent"], color="black", linestyle="-", linewidth=1.2, zorder=1,
                label="if interference is independent")  # fmt: skip
        if isinstance(given[name], SparseUniform):
            ax.plot(means.index, means["gaussian"], color=plots.GREY, linestyle="--", zorder=1, label="and normal")
        density = given[name].activity.mean()
        ax.axhline(float(density), color=plots.GREY, linestyle=":", label="knowing nothing, p")
        ax.set(title=name, xlabel="readout z", ylabel="P(feature on | z)", ylim=(0, 1.03))
        ax.label_outer()
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=10)
    gaps = [interval for key, interval in statistics.items() if key.startswith("p0") and key.endswith("_independent")]
    worst = max(abs(interval.value) for interval in gaps)
    figure.suptitle(
        f"Weak readouts are impure, as superposition predicts: with independent features to within {worst:.0e}",
        fontsize=14,
    )
    return figure


if __name__ == "__main__":
    report.experiment(main)
