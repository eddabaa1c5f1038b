"""Does the shape of a network matter at equal parameters? Aspect ratios 64-fold apart, from slack to overfull.

Kaplan et al. (2020, section 3.1, figure 5): at a fixed number of non-embedding parameters the loss hardly depends on
shape; a (6 layers, 4288 wide) model comes within 3% of a (48, 1600) one. Katta (2024) takes this as a postulate, and
pictures a cylinder of radius d and height L: parameters are its volume, neurons its surface, so that squashing it at
equal volume loses surface. Here shapes have equal live parameters N (within 0.5%) and 16, 8, 4, 2 and 1 blocks, with
aspect ratio d / L about 1, 8/3, 8, 64/3 and 64 times the deepest one's. Depths 16 and 2 are Kaplan's pair scaled down:
his are 8 apart in depth and 2.68 in width, 21.4 in aspect ratio (and 11% in N); these 8, about 2.7 and about 21.

Tasks: memory of facts with K = 1 and 2 active at once (four labels), representation (U[0, 1] at density 0.05, tied to
N through the decoder's blocks only). Load 1 is N facts at K = 1, and 160 facts at K = 2 or 64 features, about what the
note's model A (16 wide, 8 deep) holds in model_a_model_b.json. Claims of invariance are about loads 0.25 to 2; higher
ones are there to find the wide shapes' capacity, sup over load of F_eff = sum max(0, R^2).

From F = C d^a L^b and N = 2 d^2 L it follows that d = (N A / 2)^(1/3), L = (N / 2)^(1/3) A^(-2/3), so at fixed N
F ~ A^((a - 2b) / 3): exponent -1/3 if neurons count, 0 if parameters do, 1/3 if one layer's width does.

Rules. A pair of shapes is equal within a margin if the 90% interval of its ln loss ratio, paired by seed, lies in
+-ln(1 + margin) (TOST, 5%), unequal if wholly outside. At a load where both recover 99% for every seed the pair is
slack: losses are then next to nothing and their ratio says little, so it is left out of these verdicts:
- `shape_invariant_1pct`, `_3pct`: all pairs at all loads that are not slack; `neighbours_3pct`: shapes next to each
  other; `kaplan_pair_3pct`: Kaplan's pair. `invariant_where_slack`: the slack pairs recover the same count within 1%
  (which the 99% nearly grants), `loss_equal_where_slack`: and their losses agree within 3% all the same.
- `neurons`, `parameters`, `width`: the exponent of capacity lies within ln 1.1 / ln 8 = 0.046 of -1/3, 0, 1/3, which is
  10% for the note's eightfold move. Its interval is over seeds; `power_law_misfit` is the largest residual.
- load at which invariance breaks: where the largest ln ratio of two shapes' mean counts first passes ln 1.03, linear in
  ln load between those offered (so uncertain by a step, which its interval over seeds does not hold).
`floor_needed`: the irreducible loss, in units of guessing, that both of Kaplan's pair would need on top to come within
3% at the worst load: his loss holds the entropy of text, these have none.

Controls: each shape's own learning rate per task (search seeds, at two loads), bracketed; half the steps from load 1 on
(`length_does_not_decide`: the exponent moves by less than 0.046); a quarter of the parameters at K = 1, 8 to 1 blocks
(`second_budget_agrees`: likewise); B over A within 10% of model_a_model_b.json; untrained networks.

Two cores: --quick about 30 seconds, default about 5 minutes.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Patch, Rectangle

from toysup import plots, report, search, stats
from toysup.ensemble import Trained
from toysup.features import OnePerGroup, SparseUniform
from toysup.measure import Estimate, features_offered, held_out_loss, recovered
from toysup.models import ResidualMLP, UntiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape, shapes_at_budget
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity, Memory

QUESTION = "At equal parameters, at which loads does the aspect ratio not matter?"
DENSITY, LABELS, CLAIMED = 0.05, 4, 2.0  # claims of invariance are about loads up to the last
SMALL = "memory_K1_small"  # the second budget
ACTIVE = {"memory_K1": 1, "memory_K2": 2, "representation": None, SMALL: 1}
TASKS = [task for task in ACTIVE if task != SMALL]
READ = {task: active and active * LABELS for task, active in ACTIVE.items()}
LOADS = {"memory_K1": [0.25, 0.5, 0.75, 1, 1.25, 1.5, 2], "memory_K2": [0.25, 0.5, 0.75, 1, 1.5, 2, 4, 8],
         "representation": [0.25, 0.5, 0.75, 1, 1.5, 2, 4, 6], SMALL: [0.75, 1, 1.25, 1.5, 2]}  # fmt: skip
FACTORS = (1, 8 / 3, 8, 64 / 3, 64)  # of aspect ratio, when depth is halved each time
PREDICTED = {"neurons": -1 / 3, "parameters": 0.0, "width": 1 / 3}
CLOSE = math.log(1.1) / math.log(8)


def untrained(trained: Trained) -> Estimate:
    """Recovered before the first step."""
    return recovered(trained.at(0))


def ladder(task: str, run: report.Run) -> list[Shape]:
    """Shapes of equal live parameters, deepest first: of those within the tolerance the nearest to FACTORS."""
    deep = Shape(12, 16, 12 if task == "representation" else 11)
    base = run.pick(default=deep, quick=Shape(8, 8), smoke=Shape(8, 2))
    if task == SMALL:
        base = run.pick(default=Shape(8, 8, 9), quick=Shape(8, 4), smoke=Shape(8, 2))
    tolerance = run.pick(default=0.005 if task != SMALL else 0.012, quick=0.02)
    found = []
    for power in range(base.depth.bit_length()):
        aspect = base.aspect_ratio * FACTORS[power]
        near = shapes_at_budget(base.live_parameters(READ[task]), tolerance=tolerance, depths=[base.depth >> power],
                                hidden_ratio=None, read=READ[task])  # fmt: skip
        found.append(min((one.shape for one in near), key=lambda shape: abs(math.log(shape.aspect_ratio / aspect))))
    return found


def unit_of(task: str, base: Shape) -> float:
    """Features at load 1."""
    if ACTIVE[task] == 1:
        return base.live_parameters(LABELS)
    return base.width / 12 * (64 if task == "representation" else 160)


def grid_of(
    task: str, run: report.Run, loads: list[float], unit: float, shapes: list[Shape], axes: dict, lrs: list[float] = ()
) -> Grid:
    """One task at some loads: every shape, each at its own learning rate if any is given."""
    steps = run.pick(default=2000 if task == "representation" else 3000, quick=800, smoke=4)
    batch = run.pick(default=512 if task == "memory_K1" else 256, quick=256, smoke=64)
    optimizer, active = Adam(beta2=0.99, schedule=Cosine()), ACTIVE[task]
    if active is None:
        features, asked, model = SparseUniform(8, DENSITY), Identity(), Model(UntiedAutoencoder, width=8)
        offered = {"features.n_features": [round(load * unit) for load in loads]}
        paths = ("model.width", "model.depth", "model.hidden")
        points = [(shape.width, shape.depth, shape.hidden) for shape in shapes]
    else:
        features, asked = OnePerGroup(active * round(max(loads) * unit / active), active), Memory(LABELS)
        model = Model(ResidualMLP, shape=shapes[0], unembedding="coordinates")
        offered = {"features.offered": np.array(loads) / max(loads)}
        paths, points = ("model.shape", "model.row_norm"), [(shape, math.sqrt(shape.width)) for shape in shapes]
    if lrs:
        paths, points = (*paths, "optimizer.lr"), [(*point, lr) for point, lr in zip(points, lrs, strict=True)]
    return Grid(Setting(features, asked, model, optimizer, steps, batch), {paths: points} | offered | axes)


def pairs_of(table: pd.DataFrame) -> pd.DataFrame:
    """One row per load and pair of shapes: 90% intervals of the ln ratios of loss and count, the shallower over the
    deeper; simultaneous 95% ones over all pairs at that load (Bonferroni); and whether both recover 99%."""
    rows = []
    for load, here in table.groupby("load"):
        by_seed = here.pivot(index="seed", columns="rung")
        full = (by_seed["recovered"] >= 0.99 * by_seed["features_offered"]).all()
        pairs = list(itertools.combinations(full.index, 2))
        for i, j in pairs:
            row = {"load": load, "i": i, "j": j, "slack": bool(full[i] and full[j])}
            for name, column in (("loss", "held_out_loss"), ("count", "recovered")):
                ours, theirs = by_seed[column, i], by_seed[column, j]
                logs = np.log(theirs / ours) if (ours > 0).all() and (theirs > 0).all() else None
                row[name] = stats.UNDEFINED if logs is None else stats.mean(logs, 0.9)
                row[f"{name}_all"] = stats.UNDEFINED if logs is None else stats.mean(logs, 1 - 0.05 / len(pairs))
            rows.append(row)
    return pd.DataFrame(rows)


def equal(pairs: pd.DataFrame, percent: float, of: str = "loss") -> stats.Verdict:
    """Whether all these pairs are equal within a margin (intersection-union); undecided where there are none."""
    found = [stats.decide(one, math.log1p(percent / 100)) for one in pairs[of]]
    return stats.every(*found) if found else "undecided"


def largest(pairs: pd.DataFrame, of: str) -> stats.Interval:
    """The largest |ln ratio| among pairs that have one, with its simultaneous interval; undefined where none has."""
    found = [one for one in pairs[f"{of}_all"] if math.isfinite(one.value)]
    worst = max(found, key=lambda one: abs(one.value), default=stats.UNDEFINED)
    return stats.Interval(-worst.value, -worst.high, -worst.low) if worst.value < 0 else worst


def parting(table: pd.DataFrame) -> stats.Interval:
    """The load where the largest ratio of two shapes' mean counts passes 1.03; the lowest load if it does so there."""
    loads = np.sort(table["load"].unique())
    wide = table.pivot(index="seed", columns=["load", "rung"], values="recovered")
    counts = np.stack([wide[load].to_numpy() for load in loads], 1)  # seed load shape

    def passes(counts: np.ndarray) -> float:
        means = np.log(counts.mean(0).clip(1))
        gap = means.max(1) - means.min(1) - math.log(1.03)
        over = np.flatnonzero(gap > 0)
        if not over.size or not over[0]:
            return float(loads[0]) if over.size else math.nan
        here = slice(over[0] - 1, over[0] + 1)
        return float(np.exp(np.interp(0, gap[here], np.log(loads[here]))))

    return stats.bootstrap(passes, counts)


def floor_needed(task: str, table: pd.DataFrame, pair: tuple[int, int]) -> stats.Interval:
    """Irreducible loss, in units of guessing, that brings the pair within 3% at the claimed load that needs most."""
    found = []
    for _, here in table[table["load"] <= CLAIMED].groupby("load"):
        loss = here.pivot(index="seed", columns="rung", values="held_out_loss")[list(pair)]
        offered = here["features_offered"].iloc[0]
        guess = ACTIVE[task] * math.log(LABELS) if ACTIVE[task] else offered * (DENSITY / 3 - DENSITY**2 / 4)
        found.append(stats.mean(((loss.max(axis=1) - loss.min(axis=1)) / 0.03 - loss.min(axis=1)) / guess))
    return max(found, key=lambda one: one.value)


def capacities(table: pd.DataFrame) -> pd.DataFrame:
    """Capacity by seed (rows) and shape (columns), of one feature at least."""
    return pd.DataFrame({rung: stats.capacity(rows)["recovered"].clip(1) for rung, rows in table.groupby("rung")})


def slopes(held: pd.DataFrame, shapes: list[Shape]) -> np.ndarray:
    """Each seed's exponent of capacity in the aspect ratio."""
    return np.polyfit(np.log([shape.aspect_ratio for shape in shapes]), np.log(held.to_numpy().T), 1)[0]


def judge(task: str, table: pd.DataFrame, pair: tuple[int, int]) -> tuple[dict, dict, dict]:
    """Statistics and verdicts on the invariance of one task, and what every load says."""
    pairs, by_load = pairs_of(table), {}
    kaplan = (pairs["i"] == pair[0]) & (pairs["j"] == pair[1])
    claimed, slack = pairs["load"] <= CLAIMED, pairs["slack"]
    tight = claimed & ~slack
    statistics = {
        "largest_ln_loss": largest(pairs[tight], "loss"),
        "largest_ln_count": largest(pairs[tight], "count"),
        "invariance_breaks_at_load": parting(table),
        "floor_needed": floor_needed(task, table, pair),
    }
    verdict = {
        "shape_invariant_1pct": equal(pairs[tight], 1),
        "shape_invariant_3pct": equal(pairs[tight], 3),
        "neighbours_3pct": equal(pairs[tight & (pairs["j"] == pairs["i"] + 1)], 3),
        "kaplan_pair_3pct": equal(pairs[tight & kaplan], 3),
        "invariant_where_slack": equal(pairs[claimed & slack], 1, "count"),
        "loss_equal_where_slack": equal(pairs[claimed & slack], 3),
    }
    for load, here in pairs.groupby("load"):
        row: dict[str, Any] = {f"largest_ln_{of}": largest(here, of) for of in ("loss", "count")}
        row |= {f"kaplan_{of}": here[kaplan[here.index]].iloc[0][of] for of in ("loss", "count", "slack")}
        row["slack"] = bool(here["slack"].all())
        row["equal_within_3pct"] = "slack" if row["slack"] else equal(here[~here["slack"]], 3)
        by_load[f"{task} {load:g}"] = row
    return statistics, verdict, by_load


def against(task: str, held: pd.DataFrame, shapes: list[Shape]) -> tuple[stats.Interval, stats.Verdict]:
    """The note's B over A (2 blocks over 8) here, over that in model_a_model_b.json; and whether it is 1 within 10%."""
    earlier = Path(__file__).parent.parent / "figures" / "model_a_model_b.json"
    there = json.loads(earlier.read_text())["statistics"][f"{task}_B_over_A"]
    a = max(0, len(shapes) - 4)
    here = stats.ratio(held[min(a + 2, len(shapes) - 1)], held[a], paired=True)
    reach = math.hypot(math.log(here.high / here.value), math.log(there["high"] / there["value"]))
    value = here.value / there["value"]
    found = stats.Interval(value, value * math.exp(-reach), value * math.exp(reach))
    return found, stats.decide(found, (1 / 1.1, 1.1))


def main(run: report.Run) -> None:
    options = {"results": run.results, "device": run.device, "workers": run.workers}
    shapes = {task: ladder(task, run) for task in ACTIVE}
    units = {task: unit_of(task, shapes[task][0]) for task in ACTIVE}
    searched, grids = {}, {}
    for task in ACTIVE:
        loads, seeds = [1, 2] if ACTIVE[task] == 1 else [1, 4], {"seed": search.SEARCH_SEEDS}
        for shape in shapes[task]:
            searched[f"{task}_{shape}"] = grid_of(task, run, loads, units[task], [shape], seeds)
    rates = run.pick(default=[0.005, 0.01, 0.02, 0.04], smoke=[0.01, 0.02])
    found = search.best_rates(searched, rates, extend=run.pick(default=3, smoke=0), **options)
    for task in ACTIVE:
        loads, seeds = LOADS[task], {"seed": range(run.pick(default=8, smoke=2))}
        lrs = [float(found.loc[f"{task}_{shape}", "lr"]) for shape in shapes[task]]
        grids[task] = grid_of(task, run, loads, units[task], shapes[task], seeds, lrs)
        if task != SMALL:
            loads, half = [load for load in loads if load >= 1], seeds | {"steps": [grids[task].setting.steps // 2]}
            grids[f"{task}_half"] = grid_of(task, run, loads, units[task], shapes[task], half, lrs)
    answers = sweep(grids, [held_out_loss, recovered, features_offered, untrained], snapshots=(0,), **options)

    def gathered(task: str, end: str = "") -> pd.DataFrame:
        table, loads = answers[task + end].table, np.array(LOADS[task])
        nearest = np.abs(table["features_offered"].to_numpy()[:, None] / units[task] - loads).argmin(1)
        rung = table["depth"].map({shape.depth: rung for rung, shape in enumerate(shapes[task])})
        return table.assign(load=loads[nearest], rung=rung)

    tables = {task: gathered(task) for task in ACTIVE}
    held = {task: capacities(table) for task, table in tables.items()}
    exponent = {task: slopes(held[task], shapes[task]) for task in ACTIVE}
    statistics, verdict, controls = {}, {}, {"learning_rate": found.to_dict("index"), "by_load": {}, "capacity": {}}
    controls |= {name: {} for name in ("power_law_misfit", "half_the_training", "over_model_a_model_b", "untrained")}
    settled, agrees, inside = [], [], []
    for task, table in tables.items():
        statistics[f"{task}_aspect_exponent"] = stats.mean(exponent[task])
        statistics[f"{task}_a_minus_2b"] = stats.mean(3 * exponent[task])
        x, y = np.log([shape.aspect_ratio for shape in shapes[task]]), np.log(held[task].mean())
        controls["power_law_misfit"][task] = np.abs(y - np.polyval(np.polyfit(x, y, 1), x)).max()
        controls["untrained"][task] = table["untrained"].max()
        for rung, rows in table.groupby("rung"):
            shape, best = shapes[task][rung], rows.groupby("load")["recovered"].mean().idxmax()
            inside.append(best < max(LOADS[task]))
            row = {"parameters": shape.live_parameters(READ[task]), "aspect_ratio": shape.aspect_ratio}
            row |= {"neurons": shape.note_neurons, "capacity": stats.mean(held[task][rung]), "at_load": best}
            controls["capacity"][f"{task} {shape}"] = row
    for task in TASKS:
        own, said, by_load = judge(task, tables[task], kaplan_pair(shapes[task]))
        statistics |= {f"{task}_{name}": one for name, one in own.items()}
        slope = statistics[f"{task}_aspect_exponent"]
        said |= {name: stats.decide(slope, (to - CLOSE, to + CLOSE)) for name, to in PREDICTED.items()}
        verdict |= {f"{task}_{name}": one for name, one in said.items()}
        controls["by_load"] |= by_load
        full = slopes(capacities(tables[task][tables[task]["load"] >= 1]), shapes[task])
        drift = stats.mean(slopes(capacities(gathered(task, "_half")), shapes[task]) - full)
        controls["half_the_training"][task] = drift
        settled.append(stats.decide(drift, CLOSE))
        controls["over_model_a_model_b"][task], same = against(task, held[task], shapes[task])
        agrees.append(same)
    for name in said:
        verdict[name] = stats.every(*(verdict[f"{task}_{name}"] for task in TASKS))
    verdict["length_does_not_decide"] = stats.every(*settled)
    verdict["agrees_with_model_a_model_b"] = stats.every(*agrees)
    second = stats.mean(exponent[SMALL] - exponent["memory_K1"])
    controls["second_budget"] = {"exponent_minus_main": second}
    verdict["second_budget_agrees"] = stats.decide(second, CLOSE)
    verdict["learning_rate_bracketed"] = "supported" if found["bracketed"].all() else "undecided"
    verdict["capacity_inside_loads"] = "supported" if all(inside) else "undecided"
    engine = ", ".join(sorted({engine for table in tables.values() for engine in table["engine"]}))
    report.write(run, draw(tables, held, shapes, statistics, controls["by_load"]), statistics=statistics,
                 verdict=verdict, controls=controls, instances=sum(map(len, grids.values())), engine=engine,
                 steps=max(one.setting.steps for one in grids.values()),
                 seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def kaplan_pair(shapes: list[Shape]) -> tuple[int, int]:
    """The deepest shape and the one an eighth as deep, or the shallowest."""
    return 0, min(3, len(shapes) - 1)


def draw(tables: dict, held: dict, shapes: dict, statistics: dict, by_load: dict) -> plots.Figure:
    """Loss ratio and share recovered against aspect ratio by load; capacity against aspect ratio and surface."""
    figure, axes = plots.figure(2, 4, width=18, height=4.9)
    loads = sorted({load for task in TASKS for load in LOADS[task] if load <= CLAIMED})
    shades = dict(zip(loads, mpl.colormaps["viridis"](np.linspace(0, 0.92, len(loads))), strict=True))
    for task, (top, bottom) in zip(TASKS, axes[:, :3].T, strict=True):
        for load, rows in tables[task][tables[task]["load"] <= CLAIMED].groupby("load"):
            by_seed, slack = rows.pivot(index="seed", columns="rung"), by_load[f"{task} {load:g}"]["slack"]
            loss = by_seed["held_out_loss"].where(by_seed["held_out_loss"] > 0)
            share = by_seed["recovered"] / rows["features_offered"].iloc[0]
            look = {"color": shades[load], "linestyle": ":" if slack else "-"}
            curve(top, factors(shapes[task]), np.log(loss.div(loss[len(shapes[task]) // 2], axis=0)), np.exp, look)
            curve(bottom, factors(shapes[task]), share, np.array, look)
        top.axhspan(1 / 1.03, 1.03, color="0.6", zorder=0)
        parts = statistics[f"{task}_invariance_breaks_at_load"].value
        top.set(yscale="log", ylim=(0.02, 50), title=named(task), ylabel="held-out loss / that of the middle shape")
        bottom.set(ylim=(0, 1.04), ylabel="share of offered features recovered",
                   title=f"{named(task)}: counts part at load {parts:.2g}")  # fmt: skip
    handles = [Line2D([], [], color=shade, marker="o", label=f"load {load:g}") for load, shade in shades.items()]
    handles.append(Line2D([], [], color=plots.GREY, linestyle=":", marker="o", label="all shapes recover 99%"))
    handles.append(Patch(color="0.6", label="equal within 3%"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=11)
    by_aspect, by_surface = axes[:, 3]
    colours = plots.category_colours(TASKS) | {SMALL: "0.5"}
    span = np.array([1.0, factors(shapes["memory_K1"]).max()])
    for name, slope in PREDICTED.items():
        plots.reference(by_aspect, span, span**slope, name)
    for task, found in held.items():
        x, surface = factors(shapes[task]), np.array([shape.note_neurons for shape in shapes[task]])
        ratios = [stats.ratio(found[rung], found[0], paired=True) for rung in found]
        for ax, at in ((by_aspect, x), (by_surface, surface / surface[0])):
            if task == SMALL and ax is by_surface:
                continue
            at, value = np.asarray(at), np.array([one.value for one in ratios])
            ends = [value - [one.low for one in ratios], [one.high for one in ratios] - value]
            ax.errorbar(at, value, yerr=ends, marker="o", markersize=5, capsize=2, color=colours[task],
                        linestyle="--" if task == SMALL else "-", label=named(task))  # fmt: skip
    by_aspect.set(yscale="log", title="capacity / the deepest shape's", ylabel="features at the best load, relative")
    by_aspect.legend(fontsize=10, loc="upper left")
    for ax in (*axes[0], *axes[1, :3]):
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlabel("aspect ratio d / L, relative to the deepest")
    cylinders(by_surface, shapes["representation"])
    exponents = {task: statistics[f"{task}_aspect_exponent"].value for task in TASKS}
    figure.suptitle(
        "At equal parameters, capacity goes with aspect ratio to the power "
        + ", ".join(f"{value:.2f} ({named(task)})" for task, value in exponents.items())
    )
    return figure


def curve(ax: plots.Axes, x: np.ndarray, values: pd.DataFrame, back: Any, look: dict) -> None:
    """Means over seeds in the band of their 95% intervals; nothing where a value is not finite (a loss of 0)."""
    if np.isfinite(values.to_numpy()).all():
        ends = [stats.mean(values[rung]) for rung in values]
        middle, low, high = (back([getattr(one, name) for one in ends]) for name in ("value", "low", "high"))
        ax.plot(x, middle, marker="o", markersize=5, **look)
        ax.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0)


def cylinders(ax: plots.Axes, shapes: list[Shape]) -> None:
    """The note's picture: volume says the same everywhere, surface falls; silhouettes to scale along the top."""
    surface = np.array([shape.note_neurons for shape in shapes]) / shapes[0].note_neurons
    span = np.array([surface.min(), 1.0])
    plots.reference(ax, span, np.ones(2), "volume: parameters d²L")
    plots.reference(ax, span, span, "surface: neurons dL")
    plots.reference(ax, span[::-1], 1 / span[::-1], "radius: width d")
    ax.set(xscale="log", yscale="log", xlabel="surface dL, relative to the deepest", ylabel="features, relative",
           title="the note's cylinder, and what was measured")  # fmt: skip
    inset = ax.inset_axes((0, 0.78, 1, 0.22))
    step = 2.3 * shapes[-1].width
    for place, shape in enumerate(shapes[::-1]):
        x, d, height = place * step, shape.width, shape.depth
        inset.add_patch(Rectangle((x - d, 0), 2 * d, height, color="0.8"))
        inset.add_patch(Ellipse((x, height), 2 * d, 0.5 * d, facecolor="0.9", edgecolor=plots.GREY))
        inset.add_patch(Ellipse((x, 0), 2 * d, 0.5 * d, color="0.8", zorder=0))
    inset.set(xlim=(-step / 2, step * (len(shapes) - 0.5)), ylim=(-15, 30), aspect="equal")
    inset.axis("off")


def named(task: str) -> str:
    """A task's name as the figure says it."""
    return task.replace("_small", ", fewer parameters").replace("_K1", ", K=1").replace("_K2", ", K=2")


def factors(shapes: list[Shape]) -> np.ndarray:
    """Aspect ratio over the deepest shape's."""
    return np.array([shape.aspect_ratio for shape in shapes]) / shapes[0].aspect_ratio


if __name__ == "__main__":
    report.experiment(main)
