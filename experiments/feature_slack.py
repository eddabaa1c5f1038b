"""Where does the note's contradiction bind? Recovered against offered features, from far under to far over capacity.

Commenters on Katta's note (2024) answered it with slack: "run out of meaningful features long before you run out of
space". A bound on what fits is one-sided. As long as fewer features are offered than fit, networks of every shape
recover all of them, their losses agree, and nothing contradicts anything; where more are offered, shapes must differ or
the bound is not theirs. Representation through widths m and 2 m (the note's A and B) at density .05, with features
alike (uniform) or as unequal as words (Zipf, p_i ~ 1 / i, at the same mean density), and facts in residual blocks of
equal parameters, A = (16, 8) and B = (32, 2), one at a time; features offered per neuron of A, or per parameter, from
1/4 to 16 or 1/8 to 4.

Rules, by world: `slack_when_few`: at the smallest load both recover at least 99% of the features, and the counts agree
within 1%. `binds_when_many`: at the largest the counts of A and B differ by more than 3%. `load_where_B_leads` is
where, interpolated over the load, B's count first departs from A's by 3%; below it the contradiction is vacuous.
`never_full_zipf`: at the largest load doubling the features offered still adds at least 5% to what is recovered under
Zipf; `full_uniform`: it adds less than 5% where all are alike. Controls: untrained networks; each half the learning
rate; A against A with other seeds (must never depart).

Two cores: --quick about 40 s, default about 4 minutes.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from toysup import plots, report, stats
from toysup.ensemble import Trained
from toysup.features import OnePerGroup, PowerLaw, SparseUniform
from toysup.measure import Estimate, features_offered, recovered
from toysup.models import ResidualMLP, TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape, model_b_of
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity, Memory

QUESTION = "When are there too few features for superposition's limits to matter, and when do they bind?"
DENSITY, LABELS = 0.05, 4
COLOURS = dict(zip("AB", plots.category_colours("AB").values(), strict=True))


def untrained(trained: Trained) -> Estimate:
    """Recovered before the first step."""
    return recovered(trained.at(0))


def autoencoders(run: report.Run, zipf: bool) -> Grid:
    """Both widths, all loads, seeds, and two learning rates."""
    width = run.pick(default=16, quick=8, smoke=4)
    loads = 2.0 ** np.arange(-2, run.pick(default=4.1, smoke=1.1), run.pick(default=0.5, quick=1, smoke=1))
    sizes = list(dict.fromkeys(max(2, round(load * width)) for load in loads))
    # The commonest of n Zipf features is active with probability density n / H_n, which may not pass 1: with few
    # features the law is flattened just enough.
    worlds = [PowerLaw(n, _exponent(n), DENSITY) if zipf else SparseUniform(n, DENSITY) for n in sizes]
    optimizer = Adam(beta2=0.99, schedule=Cosine())
    setting = Setting(worlds[0], Identity(), Model(TiedAutoencoder, width=width), optimizer, batch=512)
    axes = {
        "features": worlds,
        ("steps", "optimizer.lr"): _trainings(run, 0.02),
        "model.width": [width, 2 * width],
        "seed": range(run.pick(default=8, quick=4, smoke=2)),
    }
    return Grid(setting, axes)


def _exponent(n: int) -> float:
    """1, or the largest exponent at which the commonest feature's probability stays below 1."""
    ranks = np.arange(1, n + 1.0)
    fits = [a for a in np.linspace(1, 0, 101) if DENSITY * n / (ranks**-a).sum() <= 0.99]
    return float(fits[0])


def _trainings(run: report.Run, lr: float) -> list[tuple[int, float]]:
    steps = run.pick(default=2500, quick=700, smoke=60)
    return [(steps, lr), (steps, lr / 2)]


def facts(run: report.Run) -> Grid:
    """Both shapes, all loads, seeds, and two learning rates."""
    a = run.pick(default=Shape(16, 8), quick=Shape(16, 4), smoke=Shape(8, 4))
    loads = 2.0 ** np.arange(-3, run.pick(default=2.1, smoke=1.1), run.pick(default=0.5, quick=1, smoke=2))
    offered = OnePerGroup(round(max(loads) * a.live_parameters(LABELS)), 1)
    model = Model(ResidualMLP, shape=a, unembedding="coordinates")
    setting = Setting(offered, Memory(LABELS), model, Adam(beta2=0.99, schedule=Cosine()), batch=512)
    shapes = [a, model_b_of(a, LABELS)]
    axes = {
        ("model.shape", "model.row_norm"): [(shape, math.sqrt(shape.width)) for shape in shapes],
        "features.offered": loads / max(loads),
        ("steps", "optimizer.lr"): _trainings(run, 0.015),
        "seed": range(run.pick(default=8, quick=4, smoke=2)),
    }
    return Grid(setting, axes)


def prepared(table: pd.DataFrame, unit: float) -> pd.DataFrame:
    """With columns model (A, B), load (offered per `unit`) and share (recovered / offered)."""
    model = np.where(table["width"] == table["width"].min(), "A", "B")
    share = table["recovered"] / table["features_offered"]
    return table.assign(model=model, load=table["features_offered"] / unit, share=share)


def ratios(table: pd.DataFrame, a: str = "A", b: str = "B") -> pd.DataFrame:
    """Recovered by B over A at each load, as intervals over paired seeds."""
    counts = table.pivot(index=["load", "seed"], columns="model", values="recovered")
    found = {load: stats.ratio(own[b], own[a], paired=True) for load, own in counts.groupby(level="load")}
    return pd.DataFrame.from_dict({load: interval.asdict() for load, interval in found.items()}, orient="index")


def departure(table: pd.DataFrame, by: float = 1.03) -> stats.Interval:
    """The load from which B recovers 3% more or less than A, with a bootstrap over seeds (they are paired)."""
    counts = table.pivot(index="seed", columns=["model", "load"], values="recovered")
    loads = np.sort(table["load"].unique())
    a, b = counts["A"][loads].to_numpy(), counts["B"][loads].to_numpy()

    def first(rows: np.ndarray) -> float:
        apart = np.abs(np.log(rows[:, : len(loads)].mean(0) / rows[:, len(loads) :].mean(0))) - math.log(by)
        over = np.flatnonzero(apart > 0)
        if not over.size or over[0] == 0:
            return math.nan if not over.size else float(loads[0])
        i = over[0]
        weight = apart[i - 1] / (apart[i - 1] - apart[i])
        return float(np.exp(np.log(loads[i - 1]) + weight * np.log(loads[i] / loads[i - 1])))

    return stats.bootstrap(first, np.concatenate([b, a], axis=1))


def growth(table: pd.DataFrame) -> stats.Interval:
    """Recovered at the largest load over that at half of it (A)."""
    own = table[table["model"] == "A"].pivot(index="seed", columns="load", values="recovered")
    half = own.columns[np.abs(np.log(own.columns / own.columns.max() * 2)).argmin()]
    doublings = np.log2(own.columns.max() / half)
    log = stats.mean(np.log(own[own.columns.max()] / own[half]) / doublings)
    return stats.Interval(*(math.exp(value) for value in (log.value, log.low, log.high)))


def main(run: report.Run) -> None:
    grids = {"uniform": autoencoders(run, False), "zipf": autoencoders(run, True), "facts": facts(run)}
    options = {"results": run.results, "device": run.device, "workers": run.workers}
    answers = sweep(grids, [recovered, features_offered, untrained], snapshots=(0,), **options)
    statistics, verdict, tables = {}, {}, {}
    controls = {name: {} for name in ("half_the_rate", "same_shape", "untrained_share", "ratio_by_load")}
    for name, answer in answers.items():
        setting = grids[name].setting
        facts_unit = name == "facts" and setting.model.arguments["shape"].live_parameters(LABELS)
        every = prepared(answer.table, facts_unit or setting.model.arguments["width"])
        table = every[every["lr"] == every["lr"].max()]
        tables[name] = table
        least, most = table["load"].min(), table["load"].max()
        ratio = ratios(table)
        statistics[f"{name}_least_share"] = stats.mean(table.loc[table["load"] == least].groupby("seed")["share"].min())
        ends = {load: stats.Interval(**ratio.loc[load]) for load in (least, most)}
        statistics[f"{name}_B_over_A_when_few"], statistics[f"{name}_B_over_A_when_many"] = ends.values()
        statistics[f"{name}_load_where_B_leads"] = departure(table)
        statistics[f"{name}_gain_of_a_doubling"] = growth(table)
        verdict[f"{name}_slack_when_few"] = stats.every(
            stats.decide(statistics[f"{name}_least_share"], (0.99, np.inf)), stats.decide(ends[least], (0.99, 1.01))
        )
        same = stats.decide(ends[most], (1 / 1.03, 1.03))
        verdict[f"{name}_binds_when_many"] = {"supported": "rejected", "rejected": "supported"}.get(same, same)
        controls["ratio_by_load"][name] = {f"{load:.3g}": row.to_dict() for load, row in ratio.iterrows()}
        slower = every[every["lr"] == every["lr"].min()]
        controls["half_the_rate"][name] = {"load": departure(slower), "gain": growth(slower)}
        own = table[table["model"] == "A"]
        halves = own.assign(model=np.where(own["seed"] % 2, "B", "A"), seed=own["seed"] // 2)
        controls["same_shape"][name] = {f"{load:.3g}": row.to_dict() for load, row in ratios(halves).iterrows()}
        controls["untrained_share"][name] = float((table["untrained"] / table["features_offered"]).max())
    verdict["never_full_zipf"] = stats.decide(statistics["zipf_gain_of_a_doubling"], (1.05, np.inf))
    verdict["full_uniform"] = stats.decide(statistics["uniform_gain_of_a_doubling"], (-np.inf, 1.05))
    engine = ", ".join(sorted({e for answer in answers.values() for e in answer.table["engine"]}))
    report.write(run, draw(tables, statistics), statistics=statistics, verdict=verdict, controls=controls,
                 engine=engine, instances=sum(map(len, grids.values())), steps=_trainings(run, 1)[0][0],
                 seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def draw(tables: dict[str, pd.DataFrame], statistics: dict) -> plots.Figure:
    """Recovered against offered for both shapes, and B over A below, by world."""
    figure, axes = plots.figure(2, 3, width=13, height=3.8, sharex="col")
    names = {
        "uniform": ("features alike, p = .05", "offered per neuron of A"),
        "zipf": ("Zipf features, mean p = .05", "offered per neuron of A"),
        "facts": ("facts, one at a time", "offered per parameter"),
    }
    for (top, bottom), (name, (title, unit)) in zip(axes.T, names.items(), strict=True):
        table = tables[name]
        plots.band(top, table, "load", "recovered", "model", colours=COLOURS, log=True)
        loads = np.sort(table["load"].unique())
        offered = table.groupby("load")["features_offered"].mean()
        top.plot(loads, offered[loads], color=plots.GREY, linestyle="--", label="all that is offered")
        top.set(yscale="log", title=title, ylabel="features recovered", xlabel="")
        top.legend(fontsize=9)
        ratio = ratios(table)
        bottom.plot(ratio.index, ratio["value"], "o-", color="black", markersize=4, label="B / A")
        bottom.fill_between(ratio.index, ratio["low"], ratio["high"], color="black", alpha=0.2, linewidth=0)
        bottom.axhspan(1 / 1.03, 1.03, color=plots.GREY, alpha=0.15, linewidth=0, label="within 3%")
        bottom.axhline(1, color=plots.GREY, linestyle=":")
        where = statistics[f"{name}_load_where_B_leads"]
        if np.isfinite(where.value):
            bottom.axvline(where.value, color=COLOURS["B"], linestyle="--", label=f"binds from {where.value:.2g}")
        bottom.set(xlabel=unit, ylabel="recovered, B over A")
        bottom.legend(fontsize=9)
    found = [statistics[f"{name}_load_where_B_leads"].value for name in names]
    said = [f"{value:.2g}" if np.isfinite(value) else "no load" for value in found]
    figure.suptitle(
        f"Shape matters from {said[0]} features per neuron (Zipf {said[1]}) and {said[2]} facts per parameter;"
        " below, all are recovered",
        fontsize=14,
    )
    return figure


if __name__ == "__main__":
    report.experiment(main)
