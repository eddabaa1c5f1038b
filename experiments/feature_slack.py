"""Do features run out before space does? Recovered against offered, from far under to far over capacity.

A bound on what a network holds is one-sided. Commenters on Katta's note (2024, "Scaling Laws and Superposition") say
that one "runs out of meaningful features long before one runs out of space": then Model A (16 wide, 8 deep) and Model B
(32 wide, 2 deep, the same parameters) both hold all there is, and that they hold equally much contradicts nothing.

Three worlds. `uniform`: representation through the width, density .05, so that each further feature makes data denser.
`zipf`: the same, p_i = c / i with c such that as many are active as in the uniform world at n = 64 (3.2; 1.9 at n = 8,
5.1 at 1024), so that further features are rarer ones, as in language. `memory`: facts, one at a time, uniform.

If space is never short, recovered follows offered everywhere; if shape does not matter, A and B agree everywhere. With
n the number offered and F the number recovered (F_eff = sum max(0, R^2); for memory bits / log2 C), rules over 8 seeds:

- departure: the n beyond which F / n stays below .95 (per seed, interpolated in ln n); `lossless`: the same at .99.
- `slack_when_few`: at each n up to half the smaller departure both recover 95% or more, and B / A is within 3% of 1.
  The first half is nearly so by definition; the second is what makes the contradiction vacuous.
- `binds_when_many`: at each n above the larger of the two capacities B / A differs from 1 by more than 10%.
  `binds_against_best_A` (representation): also at the largest n, when A takes the better of its own count and that of
  its width without any blocks, which is one of the functions A could learn.
- `uniform_full`: uniform and memory, A and B: at the last doubling of n, F grows by less than 5% or falls.
  `zipf_never_full`: A and B: it grows by more than 5%.
- `zipf_set_is_prefix`: at the largest n at least 90% of the features with R^2 > .5, F of them, are among the F most
  frequent, for A and B. `rank`: the place that best divides those with R^2 > .5 from the rest.

F is cross-counted: which features have R^2 > 0 is seen on one half of the held-out batches, their R^2 summed on the
other. With a thousand rare features the usual count adds up the lucky half of the noise (`noise_in_recovered`).

Controls: learning rates searched for each shape at each large load on other seeds (`learning_rate_bracketed`); half the
steps at a middle load, where B / A may not move by more than 10% (`length_does_not_decide`), and at the largest zipf
load; untrained networks; linear PCA, which recovers the width. Capacity in the zipf world is a lower bound.

Two cores: --quick about 50 seconds, default about 5 minutes.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from toysup import plots, report, stats
from toysup.ensemble import Trained
from toysup.features import Features, OnePerGroup, PowerLaw, SparseUniform
from toysup.measure import held_out, r_squared, recovered
from toysup.models import ResidualMLP, UntiedAutoencoder
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape, model_b_of
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity, Memory
from toysup.theory import one_step_r2

QUESTION = "From far under to far over capacity: where do equal budgets hold equally much, and where not?"
DENSITY, LABELS, ANCHOR = 0.05, 4, 64
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


def cross_counted(trained: Trained):
    """F_eff, (instance,): features that count are seen on half the held-out batches and summed on the other half."""
    seen, weight = held_out(trained), trained.per_instance(lambda s, _: s.task.features_per_score(s.features))
    shares = 1 - seen.errors / seen.baseline
    a, b = shares[::2].mean(0), shares[1::2].mean(0)
    return weight * ((a > 0) * b + (b > 0) * a).sum(-1).clamp(min=0) / 2


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
    powers = run.pick(default=range(-5, 4), quick=[-5, -3, -1, 0, 1, 2], smoke=[-1, 0])
    most = run.pick(default=[1024], quick=[512], smoke=[])
    return {"uniform": few, "zipf": few + most, "memory": [round(budget * 2.0**k) for k in powers]}


def rates_of(run: report.Run, cells: list[Cell], options: dict) -> tuple[dict[Cell, float], pd.DataFrame]:
    """Each cell's rate, that of the nearest load at which rates were searched; and the search."""
    searched = run.pick(default=128, quick=256, smoke=16)
    budget = shape_of(run, "memory", "A").live_parameters(LABELS)
    anchors = [c for c in cells if (c[2] >= searched if c[0] != "memory" else c[2] >= budget / 2)]
    if run.mode != "default":
        anchors = [c for c in anchors if c[2] in (searched, round(budget))]
    found = best_rates({"slack_{}_{}_{}".format(*c): grid_of(run, c, 0.01, SEARCH_SEEDS) for c in anchors},
                       [0.01, 0.02], score=cross_counted, extend=run.pick(default=3, quick=1, smoke=0), **options)  # fmt: skip
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
    answers = dict(zip(grids, sweep({"slack_{}_{}_{}_{}".format(kind, *c): g for (kind, c), g in grids.items()},
                                    [cross_counted, recovered, r_squared], **options).values(), strict=True))  # fmt: skip
    before = {"slack_start_{}_{}_{}".format(*c): grid_of(run, c, 1e-6, range(2), 0.0) for c in starts}
    begun = dict(zip(starts, sweep(before, [untrained], snapshots=(0,), **options).values(), strict=True))
    counts = {  # (kind, world, model) -> seed x n
        key: pd.DataFrame({c[2]: a.table.set_index("seed")["cross_counted"] for (k, c), a in answers.items()
                           if (k, *c[:2]) == key}) for key in {(k, *c[:2]) for k, c in grids}
    }  # fmt: skip
    statistics, verdict, lines = {}, {}, {}
    controls = {name: {} for name in ("by_load", "half_the_training", "best_load", "without_blocks", "untrained")}
    slack, binds, best, settled, inside = [], [], [], [], {}
    for world in WORLDS:
        f = {m: counts["trained", world, m] for m in "AB"}
        left = {m: departure(f[m]) for m in "AB"}
        held = {m: stats.capacity(f[m].stack().rename("recovered").rename_axis(["seed", "load"]).reset_index())
                for m in "AB"}  # fmt: skip
        for m in "AB":
            statistics[f"{world}_capacity_{m}"] = stats.mean(held[m]["recovered"])
            statistics[f"{world}_departure_{m}"] = stats.mean(left[m])
            statistics[f"{world}_departure_share_of_capacity_{m}"] = stats.ratio(left[m], held[m]["recovered"], paired=True)
            statistics[f"{world}_lossless_{m}"] = stats.mean(departure(f[m], 0.01))
            controls["best_load"][f"{world} {m}"] = float(held[m]["load"].mode()[0])
            last, above = f[m].columns[-1], f[m].columns[-2]
            grown = stats.ratio(f[m][last], f[m][above], paired=True)
            statistics[f"{world}_last_doubling_{m}"] = grown
            inside[world, m] = stats.decide(grown, (0, 1.05))
        ratios = {n: stats.ratio(f["B"][n], f["A"][n], paired=True) for n in offered[world]}
        start = min(left[m].mean() for m in "AB")
        full = max(statistics[f"{world}_capacity_{m}"].value for m in "AB")
        few, many = [n for n in ratios if n <= start / 2], [n for n in ratios if n > full]
        enough = [stats.decide(stats.mean(f[m][n] / n), (0.95, math.inf)) for n in few for m in "AB"]
        alike = [stats.decide(ratios[n], (1 / 1.03, 1.03)) for n in few]
        verdict[f"{world}_slack_when_few"] = stats.every(*enough, *alike) if few else "undecided"
        differ = [opposite(stats.decide(ratios[n], (1 / 1.1, 1.1))) for n in many]
        verdict[f"{world}_binds_when_many"] = stats.every(*differ) if many else "undecided"
        slack.append(verdict[f"{world}_slack_when_few"])
        binds.append(verdict[f"{world}_binds_when_many"])
        statistics[f"{world}_B_over_A_at_most"] = ratios[offered[world][-1]]
        lines[world] = {"ratios": ratios, "departure": start, "full": full, "slack": few}
        growth = {m: np.log(f[m].mean()).diff() / np.diff(np.log(f[m].columns), prepend=np.nan) for m in "AB"}
        for n in offered[world]:
            controls["by_load"][f"{world} {n}"] = {
                "B_over_A": ratios[n], **{m: stats.mean(f[m][n]) for m in "AB"},
                **{f"growth_{m}": float(growth[m][n]) for m in "AB"}, **{f"lr_{m}": rates[world, m, n] for m in "AB"},
            }  # fmt: skip
        half = {m: counts["half", world, m][middle[world]] for m in "AB"}
        drift = stats.ratio(half["B"] * f["A"][middle[world]], half["A"] * f["B"][middle[world]], paired=True)
        controls["half_the_training"][f"{world} {middle[world]}"] = drift
        settled.append(stats.decide(drift, (1 / 1.1, 1.1)))
        if world != "memory":
            blockless = counts["trained", world, "A0"]
            for n in blockless:
                better = max(f["A"][n], blockless[n], key=lambda own: own.mean())
                ratio = stats.ratio(f["B"][n], better, paired=True)
                controls["without_blocks"][f"{world} {n}"] = {"F": stats.mean(blockless[n]), "B_over_better": ratio}
            best.append(opposite(stats.decide(ratio, (1 / 1.1, 1.1))))
        untaught = {m: max(a.table["untrained"].max() for c, a in begun.items() if c[:2] == (world, m)) for m in "AB"}
        controls["untrained"] |= {f"{world} {m}": untaught[m] for m in "AB"}
    most, prefix, profile = offered["zipf"][-1], [], {}
    activity = features_of("zipf", most).activity.numpy()
    controls["zipf_largest"], controls["noise_in_recovered"] = {}, {}
    for m in "AB":
        ranks = {}
        for kind in ("trained", "half"):
            r2 = answers[kind, ("zipf", m, most)].features.pivot(index="seed", columns="feature", values="r_squared")
            ranks[kind] = [stats.threshold(np.arange(1, most + 1), row <= 0.5) for row in r2.to_numpy()]
            if kind == "trained":
                profile[m] = r2
        number = (profile[m] > 0.5).sum(axis=1)
        own = [float((row[:k] > 0.5).mean()) if k else 0.0
               for row, k in zip(profile[m].to_numpy(), number, strict=True)]  # fmt: skip
        statistics[f"zipf_rank_{m}"], statistics[f"zipf_prefix_{m}"] = stats.mean(ranks["trained"]), stats.mean(own)
        weighted = (profile[m].clip(lower=0) * activity).sum(axis=1) / activity.sum()
        statistics[f"zipf_share_of_activity_{m}"] = stats.mean(weighted)
        prefix.append(stats.decide(statistics[f"zipf_prefix_{m}"], (0.9, math.inf)))
        controls["zipf_largest"][m] = {"number above .5": stats.mean(number), "prefix of a random set": number.mean() / most,
                                       "rank at half the steps": stats.mean(ranks["half"]),
                                       "F at half the steps": stats.mean(counts["half", "zipf", m][most])}  # fmt: skip
        usual = answers["trained", ("zipf", m, most)].table.set_index("seed")["recovered"]
        controls["noise_in_recovered"][m] = stats.mean(usual - counts["trained", "zipf", m][most])
    verdict |= {"slack_when_few": stats.every(*slack), "binds_when_many": stats.every(*binds)}
    verdict["binds_against_best_A"] = stats.every(*best)
    verdict["uniform_full"] = stats.every(*(v for (world, _), v in inside.items() if world != "zipf"))
    verdict["zipf_never_full"] = stats.every(*(opposite(inside["zipf", m]) for m in "AB"))
    verdict["zipf_set_is_prefix"] = stats.every(*prefix)
    verdict["length_does_not_decide"] = stats.every(*settled)
    verdict["learning_rate_bracketed"] = "supported" if searched["bracketed"].all() else "undecided"
    controls["learning_rates"] = searched.to_dict("index")
    everything = [*answers.values(), *begun.values()]
    report.write(run, draw(run, counts, statistics, lines, profile, controls["untrained"]), statistics=statistics,
                 verdict=verdict, controls=controls, instances=sum(len(a.table) for a in everything),
                 steps=next(iter(grids.values())).setting.steps, seconds=sum(a.seconds for a in everything),
                 engine=", ".join(sorted({e for a in everything for e in a.table["engine"]})))  # fmt: skip


def draw(
    run: report.Run, counts: dict, statistics: dict, lines: dict, profile: dict, untaught: dict
) -> plots.Figure:
    """Recovered against offered in each world; B over A; growth; and which ranks are recovered."""
    figure, axes = plots.figure(2, 3, width=13, height=4.3)
    for ax, (world, title) in zip(axes[0], WORLDS.items(), strict=True):
        both = pd.concat([counts["trained", world, m].stack().rename("F").reset_index().assign(model=m) for m in "AB"])
        both.columns = ["seed", "n", "F", "model"]
        plots.band(ax, both, "n", "F", "model", colours=COLOURS, log=True)
        n = np.unique(both["n"])
        ax.plot(n, n, color=plots.GREY, linestyle="--", linewidth=1.5, zorder=1, label="all that is offered")
        for m in "AB":
            at = statistics[f"{world}_departure_{m}"].value
            ax.plot(at, at, "v", color=COLOURS[m], markersize=11, markeredgecolor="black", zorder=4,
                    label=f"{m} departs: {at:,.0f}")  # fmt: skip
        if world == "memory":
            ax.axhline(shape_of(run, world, "A").live_parameters(LABELS), color=plots.GREY, linestyle=":",
                       label="2 bits per parameter")  # fmt: skip
        else:
            for m in "AB":
                width = shape_of(run, world, m).width
                ax.axhline(width, color=COLOURS[m], linestyle=":", label=f"linear (PCA), d = {width}")
                if world == "uniform":
                    theory = [k * one_step_r2(int(k), width, DENSITY).r2 for k in n]
                    ax.plot(n, theory, "--", color=COLOURS[m], linewidth=1, label=f"{m}, one-step decoding (theory)")
            blockless = counts["trained", world, "A0"].mean()
            ax.plot(blockless.index, blockless, "x", color="black", markersize=8, label="A without its blocks")
        worst = max(untaught[f"{world} {m}"] for m in "AB")
        ax.set(yscale="log", xlabel="features offered, n", ylabel="features recovered, F", title=title,
               ylim=(0.6 * n[0], 1.6 * n[-1]))  # fmt: skip
        ax.legend(fontsize=9, loc="upper left", title=f"untrained: at most {worst:.2g}", title_fontsize=9)
    ratios, growth, ranks = axes[1]
    colours = plots.category_colours(WORLDS)
    for world, title in WORLDS.items():
        own, start = lines[world]["ratios"], lines[world]["departure"]
        x = np.array(list(own)) / start
        low, value, high = np.array([(i.low, i.value, i.high) for i in own.values()]).T
        ratios.plot(x, value, "o-", color=colours[world], label=title)
        ratios.fill_between(x, low, high, color=colours[world], alpha=0.2, linewidth=0)
        for m, style in zip("AB", ("o-", "s--"), strict=True):
            means = counts["trained", world, m].mean()
            between = np.sqrt(means.index[1:] * means.index[:-1]) / start
            growth.plot(between, np.diff(np.log(means)) / np.diff(np.log(means.index)), style, markersize=5,
                        color=colours[world], label=f"{title.split(',')[0]}, {m}")  # fmt: skip
    ratios.axvspan(ratios.get_xlim()[0], 0.5, color="0.9", zorder=0)
    ratios.axhspan(1 / 1.1, 1.1, color="0.8", zorder=0)
    ratios.set(xscale="log", yscale="log", xlabel="offered / smaller departure load", ylabel="recovered, B over A",
               title="B over A: where space is short, shape matters")  # fmt: skip
    ratios.legend(fontsize=9, loc="upper left")
    growth.axhline(1, color=plots.GREY, linestyle="--")
    growth.axhline(0, color=plots.GREY, linestyle=":")
    growth.set(xscale="log", xlabel="offered / smaller departure load", ylabel="growth, dlnF / dln n",
               title="What a further feature brings")  # fmt: skip
    growth.legend(fontsize=9, ncols=1)
    for m in "AB":
        means = profile[m].mean()
        x = means.index.to_numpy() + 1
        smooth = means.rolling(9, center=True, min_periods=1).mean() if len(means) > 99 else means
        ranks.plot(x, smooth, color=COLOURS[m], label=f"{m}: mean R$^2$")
        at = statistics[f"zipf_rank_{m}"].value
        ranks.axvline(at, color=COLOURS[m], linestyle=":", label=f"{m}: rank {at:.0f}")
    ranks.axhline(0.5, color=plots.GREY, linestyle="--")
    ranks.set(xscale="log", xlabel="rank by frequency", ylabel="R$^2$ of the feature", ylim=(-0.3, 1.05),
              title=f"Zipf, {len(means)} offered: which are recovered")  # fmt: skip
    ranks.legend(fontsize=9, loc="lower left")
    apart = [statistics[f"{world}_B_over_A_at_most"].value for world in WORLDS]
    figure.suptitle(
        f"While few features are offered A and B hold them all; far beyond, B holds {min(apart):.2g} to {max(apart):.2g} times A's"
    )
    return figure


if __name__ == "__main__":
    report.experiment(main)
