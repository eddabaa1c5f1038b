"""Do features run out before space does? Recovered against offered, from far under to far over capacity.

A bound on what a network holds is one-sided. Commenters on Katta's note (2024, "Scaling Laws and Superposition") say
that one "runs out of meaningful features long before one runs out of space": then Model A (16 wide, 8 deep) and Model B
(32 wide, 2 deep, the same parameters) both hold all there is, and that they hold equally much contradicts nothing.

Three worlds. `uniform`: representation through the width, density .05, so that each further feature makes data denser.
`zipf`: the same, p_i = c / i with c such that as many are active as in the uniform world at n = 64 (3.2; 1.8 at n = 8,
5.1 at 1024), so that further features are rarer ones, as in language. `memory`: facts, one at a time, uniform.

If space is never short, recovered follows offered everywhere; if shape does not matter, A and B agree everywhere. With
n the number offered and F the number recovered (F_eff = sum max(0, R^2); for memory bits / log2 C), rules over 8 seeds:

- departure: the n beyond which F / n stays below .95 (per seed, interpolated in ln n); `lossless`: the same at .99.
- `slack_when_few`: at each n up to half the smaller departure both recover 95% or more, and B / A is within 3% of 1.
  The first half is nearly so by definition; the second is what makes the contradiction vacuous. Mind that up to
  n = width nothing needs to be superposed.
- `binds_when_many`: at each n above the larger of the two capacities B / A differs from 1 by more than 10%.
  `binds_against_best_A` (representation): also at the largest n, where A takes the best of its own count, that of its
  width without any blocks, which is one of the functions A could learn, and (zipf) that at twice the steps.
- `uniform_full`: uniform and memory, A and B: at the last doubling of n, F grows by less than 5% or falls.
  `zipf_never_full`: A and B: it grows by more than 5%. `zipf_A_full_at_twice_the_steps`: A's grows by less then too.
- `zipf_set_is_prefix`: at the largest n at least 90% of the features with R^2 > .5, F of them, are among the F most
  frequent, for A and B. `rank`: the place that best divides those with R^2 > .5 from the rest.

Controls: learning rates searched for each shape at each large load on other seeds (`learning_rate_bracketed`); half the
steps at a middle load, where B / A may not move by more than 10% (`length_does_not_decide`), and at the largest zipf
load; untrained networks; linear PCA, which recovers the width. Capacity in the zipf world is a lower bound.

Added after a first run: twice the steps (half of them had halved A's count at the largest zipf load), and the memory
load 2^.5, as capacity lay between two loads. No threshold was changed.

Two cores: --quick about 40 seconds, default about 5 minutes (8.5 minutes of one core, about 2 of them for the rates;
`seconds` leaves those out).
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator

from toysup import plots, report, stats
from toysup.ensemble import Trained
from toysup.features import Features, OnePerGroup, PowerLaw, SparseUniform
from toysup.measure import r_squared, recovered
from toysup.models import ResidualMLP, UntiedAutoencoder
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape, model_b_of
from toysup.sweep import Grid, Results, sweep
from toysup.tasks import Identity, Memory
from toysup.theory import one_step_r2

QUESTION = "From far under to far over capacity: where do equal budgets hold equally much, and where not?"
DENSITY, LABELS, ANCHOR = 0.05, 4, 64
WITHIN = (1 / 1.1, 1.1)
RULES = ("slack_when_few", "binds_when_many")  # for each world, and for all
WORLDS = {"uniform": "uniform, p = .05", "zipf": "Zipf, p = c / rank", "memory": "memory, one fact at a time"}
COLOURS = dict(zip(("A", "B"), plots.category_colours("AB").values(), strict=True))
Cell = tuple[str, str, int]  # world, model, features offered


def harmonic(n: int) -> float:
    """sum_{i <= n} 1 / i."""
    return float((1 / np.arange(1, n + 1)).sum())


def features_of(world: str, n: int) -> Features:
    """n features of a world."""
    if world == "memory":
        return OnePerGroup(n, 1)
    if world == "uniform":
        return SparseUniform(n, DENSITY)
    return PowerLaw(n, 1.0, DENSITY * ANCHOR / harmonic(ANCHOR) * harmonic(n) / n)


def untrained(trained: Trained):
    """Recovered before the first step, (instance,)."""
    return recovered(trained.at(0)).value


def shape_of(run: report.Run, world: str, model: str) -> Shape:
    """A, B, or A's width without blocks ("A0")."""
    a = run.pick(default=Shape(16, 8), smoke=Shape(8, 4))
    if model == "B":
        return model_b_of(a, LABELS if world == "memory" else None)
    return a if model == "A" else Shape(a.width, 0)


def grid_of(run: report.Run, cell: Cell, lr: float, seeds: range, share: float = 1.0) -> Grid:
    """One cell at one learning rate; `share` of the usual steps."""
    world, _, n = cell
    shape, steps = shape_of(run, *cell[:2]), run.pick(default=1800, quick=600, smoke=4)
    model = Model(UntiedAutoencoder, width=shape.width, depth=shape.depth, hidden=shape.hidden)
    if world == "memory":
        model = Model(ResidualMLP, shape=shape, row_norm=math.sqrt(shape.width), unembedding="coordinates")
    task = Memory(LABELS) if world == "memory" else Identity()
    setting = Setting(features_of(world, n), task, model, Adam(lr, beta2=0.99, schedule=Cosine()),
                      max(1, round(steps * share)), run.pick(default=512, quick=256, smoke=64))  # fmt: skip
    return Grid(setting, {"seed": seeds})


def offers(run: report.Run) -> dict[str, list[int]]:
    """How many features each world offers."""
    few = run.pick(default=[8, 16, 32, 48, 64, 96, 128, 256, 512], quick=[8, 32, 128, 256], smoke=[8, 16])
    budget = shape_of(run, "memory", "A").live_parameters(LABELS)
    powers = run.pick(default=[-5, -4, -3, -2, -1, 0, 0.5, 1, 2, 3], quick=[-5, -3, -1, 0, 1, 2], smoke=[-1, 0])
    most = run.pick(default=[1024], quick=[512], smoke=[])
    return {"uniform": few, "zipf": few + most, "memory": [round(budget * 2.0**k) for k in powers]}


def rates_of(run: report.Run, cells: list[Cell], options: dict) -> tuple[dict[Cell, float], pd.DataFrame]:
    """Each cell's rate, that of the nearest load at which rates were searched; and the search."""
    searched = run.pick(default=128, quick=256, smoke=16)
    budget = shape_of(run, "memory", "A").live_parameters(LABELS)
    powers = [budget // 2, budget, 2 * budget, 4 * budget, 8 * budget]
    anchors = [c for c in cells if (c[2] >= searched if c[0] != "memory" else c[2] in powers)]
    if run.mode != "default":
        anchors = [c for c in anchors if c[2] in (searched, budget)]
    grids = {"slack_{}_{}_{}".format(*c): grid_of(run, c, 0.01, SEARCH_SEEDS) for c in anchors}
    extend = run.pick(default=3, quick=1, smoke=0)
    found = best_rates(grids, [0.01, 0.02], extend=extend, **options)
    rate = dict(zip(anchors, found["lr"], strict=True))

    def nearest(cell: Cell) -> Cell:
        return min((c for c in anchors if c[:2] == cell[:2]), key=lambda c: abs(math.log(c[2] / cell[2])))

    return {cell: rate[nearest(cell)] for cell in cells}, found


def departure(counts: pd.DataFrame, drop: float = 0.05) -> pd.Series:
    """Each seed's n beyond which F / n stays below 1 - drop, between two offers by ln n; `counts` is seed x n. The
    smallest n where it never reaches that, the largest where it still does."""
    at, shares = np.log(counts.columns.to_numpy(dtype=float)), (counts / counts.columns).to_numpy() - (1 - drop)
    found = []
    for own in shares:
        above = np.flatnonzero(own >= 0)
        i = above[-1] if above.size else 0
        inside = above.size and i + 1 < len(at)
        found.append(at[i] + (own[i] / (own[i] - own[i + 1]) * (at[i + 1] - at[i]) if inside else 0))
    return pd.Series(np.exp(found), index=counts.index)


def opposite(found: stats.Verdict) -> stats.Verdict:
    """The verdict on the contrary."""
    return {"supported": "rejected", "rejected": "supported"}.get(found, found)


def main(run: report.Run) -> None:
    options = {"results": run.results, "device": run.device, "workers": run.workers}
    seeds, offered = range(run.pick(default=8, smoke=2)), offers(run)
    cells = [(world, model, n) for world in WORLDS for model in "AB" for n in offered[world]]
    rates, searched = rates_of(run, cells, options)
    middle = dict.fromkeys(WORLDS, run.pick(default=128, smoke=16))
    middle["memory"] = shape_of(run, "memory", "A").live_parameters(LABELS)
    halves = [(w, m, middle[w]) for w in WORLDS for m in "AB"] + [("zipf", m, offered["zipf"][-1]) for m in "AB"]
    plain = [(w, "A0", n) for w in ("uniform", "zipf") for n in (middle[w], offered[w][-1])]
    starts = [(w, m, n) for w in WORLDS for m in "AB" for n in (offered[w][0], middle[w])]
    grids = {("trained", c): grid_of(run, c, rates[c], seeds) for c in cells}
    grids |= {("half", c): grid_of(run, c, rates[c], seeds, 0.5) for c in halves}
    grids |= {("trained", c): grid_of(run, c, 0.01, seeds) for c in plain}
    longer = [("zipf", "A", n) for n in offered["zipf"][-2:]]
    grids |= {("twice", c): grid_of(run, c, rates[c], seeds, 2.0) for c in longer}
    named = {"slack_{}_{}_{}_{}".format(kind, *cell): grid for (kind, cell), grid in grids.items()}
    answers = dict(zip(grids, sweep(named, [recovered, r_squared], **options).values(), strict=True))
    before = {"slack_start_{}_{}_{}".format(*c): grid_of(run, c, 1e-6, range(2), 0.0) for c in starts}
    begun = dict(zip(starts, sweep(before, [untrained], snapshots=(0,), **options).values(), strict=True))

    counts: dict = {}  # (kind, world, model) -> recovered, seed x n
    for (kind, (world, model, n)), answer in answers.items():
        own = answer.table.set_index("seed")["recovered"]
        counts.setdefault((kind, world, model), pd.DataFrame())[n] = own
    readings = {world: read(world, counts, middle[world]) for world in WORLDS}
    ranks = {m: ranks_of(answers["trained", ("zipf", m, offered["zipf"][-1])]) for m in "AB"}
    statistics = {f"{world}_{k}": v for world, found in readings.items() for k, v in found["statistics"].items()}
    statistics |= {f"zipf_{k}_{m}": v for m in "AB" for k, v in ranks[m]["statistics"].items()}
    verdict = {f"{world}_{k}": found[k] for world, found in readings.items() for k in RULES}
    verdict |= {k: stats.every(*(found[k] for found in readings.values())) for k in RULES}
    verdict["binds_against_best_A"] = stats.every(*(found["best"] for found in readings.values() if "best" in found))
    verdict["uniform_full"] = stats.every(*(v for w in ("uniform", "memory") for v in readings[w]["full"]))
    verdict["zipf_never_full"] = stats.every(*map(opposite, readings["zipf"]["full"]))
    verdict["zipf_A_full_at_twice_the_steps"] = stats.decide(readings["zipf"]["twice"]["last_doubling"], (0, 1.05))
    verdict["zipf_set_is_prefix"] = stats.every(
        *(stats.decide(ranks[m]["statistics"]["prefix"], (0.9, math.inf)) for m in "AB")
    )
    verdict["length_does_not_decide"] = stats.every(*(found["settled"] for found in readings.values()))
    verdict["learning_rate_bracketed"] = "supported" if searched["bracketed"].all() else "undecided"

    controls: dict = {"by_load": {f"{w} {n}": v for w, found in readings.items() for n, v in found["by_load"].items()}}
    controls["rates"] = {"{} {} {}".format(*cell): rate for cell, rate in rates.items()}
    controls["rates_searched"] = searched.to_dict("index")
    controls["half_the_training"] = {world: found["drift"] for world, found in readings.items()}
    controls["best_load"] = {world: found["best_load"] for world, found in readings.items()}
    controls["twice_the_training"] = {"zipf A": readings["zipf"]["twice"]}
    controls["without_blocks"] = {w: readings[w]["without_blocks"] for w in ("uniform", "zipf")}
    controls["untrained"] = {w: max(a.table["untrained"].max() for c, a in begun.items() if c[0] == w) for w in WORLDS}
    controls["zipf_largest"] = {}
    for m in "AB":
        cell = ("zipf", m, offered["zipf"][-1])
        half = ranks_of(answers["half", cell])["statistics"]["rank"]
        half_count = stats.mean(counts["half", "zipf", m][cell[2]])
        own = {"prefix of a random set": ranks[m]["chance"], "rank at half the steps": half}
        controls["zipf_largest"][m] = own | {"F at half the steps": half_count}
    everything = [*answers.values(), *begun.values()]
    figure = draw(run, counts, readings, ranks, controls["untrained"])
    report.write(run, figure, statistics=statistics, verdict=verdict, controls=controls,
                 instances=sum(len(a.table) for a in everything), steps=grids["trained", cells[0]].setting.steps,
                 seconds=sum(a.seconds for a in everything),
                 engine=", ".join(sorted({e for a in everything for e in a.table["engine"]})))  # fmt: skip


def read(world: str, counts: dict, middle: int) -> dict:
    """Statistics, verdicts and controls of one world."""
    f = {m: counts["trained", world, m] for m in "AB"}
    offered, out = list(f["A"]), {"statistics": {}, "best_load": {}, "full": [], "by_load": {}}
    left = {m: departure(f[m]) for m in "AB"}
    for m in "AB":
        table = f[m].rename_axis(columns="load").stack().rename("recovered").reset_index()
        held = stats.capacity(table)
        out["best_load"][m] = float(held["load"].mode()[0])
        last = stats.ratio(f[m][offered[-1]], f[m][offered[-2]], paired=True)
        out["full"].append(stats.decide(last, (0, 1.05)))
        found = {"capacity": stats.mean(held["recovered"]), "departure": stats.mean(left[m])}
        found["departure_share_of_capacity"] = stats.ratio(left[m], held["recovered"], paired=True)
        found |= {"lossless": stats.mean(departure(f[m], 0.01)), "last_doubling": last}
        out["statistics"] |= {f"{k}_{m}": v for k, v in found.items()}
    ratios = {n: stats.ratio(f["B"][n], f["A"][n], paired=True) for n in offered}
    out["start"] = start = min(left[m].mean() for m in "AB")
    full = max(out["statistics"][f"capacity_{m}"].value for m in "AB")
    few, many = [n for n in offered if n <= start / 2], [n for n in offered if n > full]
    slack = [stats.decide(stats.mean(f[m][n] / n), (0.95, math.inf)) for n in few for m in "AB"]
    slack += [stats.decide(ratios[n], (1 / 1.03, 1.03)) for n in few]
    binds = [opposite(stats.decide(ratios[n], WITHIN)) for n in many]
    out["slack_when_few"], out["binds_when_many"] = (stats.every(*v) if v else "undecided" for v in (slack, binds))
    out["statistics"] |= {"B_over_A_at_least": ratios[offered[0]], "B_over_A_at_most": ratios[offered[-1]]}
    for i, n in enumerate(offered):
        out["by_load"][n] = {"B_over_A": ratios[n], "A": stats.mean(f["A"][n]), "B": stats.mean(f["B"][n])}
        for m in "AB" if i else "":
            grown = stats.ratio(f[m][n], f[m][offered[i - 1]], paired=True).asdict().values()
            logs = [math.log(max(end, 1e-9)) / math.log(n / offered[i - 1]) for end in grown]
            out["by_load"][n][f"growth_{m}"] = stats.Interval(*logs)  # dlnF / dln n
    half = {m: counts["half", world, m][middle] for m in "AB"}
    out["drift"] = stats.ratio(half["B"] * f["A"][middle], half["A"] * f["B"][middle], paired=True)
    out["settled"] = stats.decide(out["drift"], WITHIN)
    longer = counts.get(("twice", world, "A"))
    if longer is not None:
        out["twice"] = {f"F at {n}": stats.mean(longer[n]) for n in longer}
        out["twice"]["last_doubling"] = stats.ratio(longer[offered[-1]], longer[offered[-2]], paired=True)
    if ("trained", world, "A0") in counts:
        plain = counts["trained", world, "A0"]
        out["without_blocks"] = {n: stats.mean(plain[n]) for n in plain}
        own = [table[offered[-1]] for table in (f["A"], plain, longer) if table is not None]
        best = stats.ratio(f["B"][offered[-1]], max(own, key=lambda counted: counted.mean()), paired=True)
        out["statistics"]["B_over_best_A_at_most"], out["best"] = best, opposite(stats.decide(best, WITHIN))
    return out


def ranks_of(answer: Results) -> dict:
    """Which ranks are recovered: R^2 (seed x rank), its statistics, and the prefix that a random set would have."""
    r2 = answer.features.pivot(index="seed", columns="feature", values="r_squared")
    n = r2.shape[1]
    over = r2.to_numpy() > 0.5
    activity = features_of("zipf", n).activity.numpy()
    rank = [stats.threshold(np.arange(1, n + 1), ~row) for row in over]
    prefix = [row[: row.sum()].mean() if row.any() else 0.0 for row in over]
    weighted = (r2.clip(lower=0) * activity).sum(axis=1) / activity.sum()
    found = {"rank": stats.mean(rank), "above_half": stats.mean(over.sum(1)), "prefix": stats.mean(prefix)}
    return {"r2": r2, "statistics": found | {"share_of_activity": stats.mean(weighted)}, "chance": over.mean()}


def draw(run: report.Run, counts: dict, readings: dict, ranks: dict, untaught: dict) -> plots.Figure:
    """Recovered against offered in each world; B over A; growth; and which ranks are recovered."""
    figure, axes = plots.figure(2, 3, width=13, height=4.4)
    for ax, (world, title) in zip(axes[0], WORLDS.items(), strict=True):
        found = readings[world]["statistics"]
        both = pd.concat(counts["trained", world, m].rename_axis(columns="n").stack().rename("F").reset_index()
                         .assign(model=m) for m in "AB")  # fmt: skip
        plots.band(ax, both, "n", "F", "model", colours=COLOURS, log=True)
        n = np.unique(both["n"])
        ax.plot(n, n, color=plots.GREY, linestyle="--", linewidth=1.5, zorder=1, label="all that is offered")
        at = {m: found[f"departure_{m}"].value for m in "AB"}
        for m in "AB":
            ax.plot(at[m], at[m], "v", color=COLOURS[m], markersize=11, markeredgecolor="black", zorder=4,
                    label=f"{m} departs")  # fmt: skip
        shapes = {m: shape_of(run, world, m) for m in "AB"}
        if world == "memory":
            budget = shapes["A"].live_parameters(LABELS)
            ax.axhline(budget, color=plots.GREY, linestyle=":")
            ax.annotate("2 bits per parameter", (n[0], budget), (0, 4), textcoords="offset points", fontsize=10)
        else:
            for m in "AB":
                ax.axhline(shapes[m].width, color=COLOURS[m], linestyle=":", label=f"{m}, linear (PCA): its width")
            plain = counts["trained", world, "A0"].mean()
            ax.plot(plain.index, plain, "x", color="black", markersize=8, label="A without its blocks")
        if world == "uniform":
            for m in "AB":
                theory = [k * one_step_r2(int(k), shapes[m].width, DENSITY).r2 for k in n]
                ax.plot(n, theory, "-.", color=COLOURS[m], linewidth=1.2, label=f"{m}, one-step decoding (theory)")
        ax.text(0.98, 0.03, f"untrained: at most {untaught[world]:.2g}", transform=ax.transAxes, ha="right",
                fontsize=10, color=plots.GREY)  # fmt: skip
        title = f"{title}\nA departs at {at['A']:,.0f}, B at {at['B']:,.0f}"
        ax.set(yscale="log", xlabel="features offered, n", ylabel="features recovered, F", title=title,
               ylim=(0.6 * n[0], 1.6 * n[-1]))  # fmt: skip
    handles = {label: h for ax in axes[0] for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=10)
    ratios, growth, profile = axes[1]
    colours = plots.category_colours(["A", "B", *WORLDS])
    for world in WORLDS:
        start, loads = readings[world]["start"], readings[world]["by_load"]
        x = np.array(list(loads)) / start
        low, value, high = np.array([list(v["B_over_A"].asdict().values()) for v in loads.values()]).T[[1, 0, 2]]
        ratios.plot(x, value, "o-", color=colours[world], label=world)
        ratios.fill_between(x, low, high, color=colours[world], alpha=0.2, linewidth=0)
        for m, style in zip("AB", ("o-", "s--"), strict=True):
            value = [v[f"growth_{m}"].value for v in list(loads.values())[1:]]
            between = np.sqrt(x[1:] * x[:-1])
            growth.plot(between, value, style, markersize=5, color=colours[world], label=f"{world}, {m}")
    ratios.axvspan(ratios.get_xlim()[0] / 2, 0.5, color="0.9", zorder=0)
    ratios.axhspan(*WITHIN, color="0.8", zorder=0)
    ratios.set_xlim(min(min(v["by_load"]) / v["start"] for v in readings.values()) / 1.3, None)
    ratios.annotate("slack:\nthe bound says\nnothing", (0.03, 0.6), xycoords="axes fraction", fontsize=10, va="center")
    ratios.annotate("within 10%", (0.97, 1.0), xycoords=("axes fraction", "data"), fontsize=9, ha="right", va="center")
    ratios.set(xscale="log", yscale="log", xlabel="features offered / smaller departure", ylabel="recovered, B over A",
               title="B over A")  # fmt: skip
    ratios.yaxis.set_major_locator(FixedLocator([0.5, 1, 2, 4, 8, 16]))
    ratios.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    ratios.yaxis.set_minor_formatter(lambda *_: "")
    ratios.legend(fontsize=10, loc="upper left")
    plots.reference(growth, growth.get_xlim(), 1, "all that is added")
    plots.null(growth, growth.get_xlim(), 0, "full")
    growth.set(xscale="log", xlabel="features offered / smaller departure", ylabel="growth, dlnF / dln n",
               title="What more features add", ylim=(-1.1, 1.15))  # fmt: skip
    growth.legend(fontsize=9, loc="lower left")
    for m in "AB":
        means = ranks[m]["r2"].mean()
        x, own = means.index.to_numpy() + 1, ranks[m]["statistics"]["rank"].value
        profile.plot(x, means, ".", markersize=3, color=COLOURS[m], label=f"{m}, divides at rank {own:.0f}")
        profile.axvline(own, color=COLOURS[m], linestyle=":")
    plots.reference(profile, [1, len(means)], 0.5, "")
    profile.set(xscale="log", xlabel="rank by frequency", ylabel="R$^2$ of the feature, mean over seeds",
                ylim=(-0.2, 1.05), title=f"Zipf, {len(means)} offered: which are recovered")  # fmt: skip
    profile.legend(fontsize=10, loc="lower left", markerscale=4)
    agree = sum(found["slack_when_few"] == "supported" for found in readings.values())
    apart = ", ".join(f"{found['statistics']['B_over_A_at_most'].value:.2g} ({w})" for w, found in readings.items())
    figure.suptitle(f"Offered few features, A and B hold them all alike in {agree} of {len(readings)} worlds;\n"
                    f"offered the most, B holds {apart} times A's", fontsize=14)  # fmt: skip
    return figure


if __name__ == "__main__":
    report.experiment(main)
