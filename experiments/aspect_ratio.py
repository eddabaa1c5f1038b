"""Does the shape of a network matter at equal parameters? Aspect ratios 64-fold apart, from slack to overfull.

Kaplan et al. (2020, section 3.1, figure 5): at fixed non-embedding parameters the loss hardly depends on shape; a (6
layers, 4288 wide) model comes within 3% of a (48, 1600) one. Katta (2024) takes this as a postulate, and pictures a
cylinder of radius d and height L: parameters are its volume, neurons its surface, so that squashing it loses surface.
Here shapes have equal live parameters N (within 0.5%) and 16, 8, 4, 2 and 1 blocks, with aspect ratio d / L about 1,
8/3, 8, 64/3 and 64 times the deepest one's. Depths 16 and 2 are Kaplan's pair scaled down: 8 apart in depth and about
21 in aspect ratio, as his are. Depths 8 and 2 are the note's step: twice the width.

Tasks: memory of facts with K = 1 and 2 active at once (four labels), representation (U[0, 1] at density 0.05, tied to
N through the decoder's blocks only). Load 1 is N facts at K = 1, and 160 facts at K = 2 or 64 features, about what the
note's model A (16 wide, 8 deep) holds in model_a_model_b.json. Claims of invariance are about loads 0.25 to 2; higher
ones are there to find the wide shapes' capacity, sup over load of F_eff = sum max(0, R^2).

From F = C d^a L^b and N = 2 d^2 L follow d = (N A / 2)^(1/3), L = (N / 2)^(1/3) A^(-2/3), so at fixed N
F ~ A^((a - 2b) / 3): exponent -1/3 if neurons count, 0 if parameters do, 1/3 if one layer's width does.

Rules, set before the first default run. A load is slack if every shape recovers 99% for every seed: losses are then
next to nothing and their ratio says little. At the other loads from 0.25 to 2:
- `loss_invariant_1pct`, `_3pct`: all shapes' losses agree within the margin (stats.equivalence: TOST on every pair,
  paired by seed, 5%; rejected if some pair differs by more, Bonferroni), at all of these loads. `kaplan_pair_3pct`,
  `note_step_3pct`: those two shapes alone. `slack_loss_invariant_3pct` asks the same of all shapes at slack loads.
- `neurons`, `parameters`, `width`: the exponent of capacity lies within ln 1.1 / ln 8 = 0.046 of -1/3, 0, 1/3, which is
  10% for the note's eightfold move. Its interval is over seeds; `power_law_misfit` is the largest residual in ln F.
- `capacity_equal_10pct`: all shapes' capacities agree within 10%, by the same test: a power law may miss a hump.
- `invariant_up_to_load`: not an estimate but a bracket: `low` is the last load up to which all shapes recover the same
  count within 3% (TOST supported), `high` the first at which that is rejected, between the loads offered.

Controls: each shape has its own learning rate by task and load, searched at loads of 1 and more in steps of 2^.5 on
seeds of their own (a load takes that of the nearest one searched), and it lies between worse ones (or higher ones that
are no better); half the steps from load 1 on (`length_does_not_decide`: the exponent moves by less than 0.046); a
quarter of the parameters at K = 1, 8 to 1 blocks (`second_budget_agrees`: likewise); 2 blocks over 8 within 10% of B
over A in model_a_model_b.json; each capacity at a load below the highest offered; untrained networks.

Changed after the first default run: at K = 1 loads 1.375 and 1.75, as capacities peak between those offered, and twice
the steps, as half of them gave the same exponent but not the same ratios; losses reported at load 2, where every rate
was searched, instead of the largest ratio, which came from losses near 0. `floor_needed`: the irreducible loss, over
that of guessing, that Kaplan's pair would need on top to come within 3% there: text has one, these tasks have none.

Two cores: --quick about 50 seconds, default 7 to 8 minutes.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.patches import Ellipse, Rectangle

from toysup import plots, report, stats
from toysup.ensemble import Trained
from toysup.features import OnePerGroup, SparseUniform
from toysup.measure import Estimate, features_offered, held_out_loss, recovered
from toysup.models import ResidualMLP, UntiedAutoencoder
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape, shapes_at_budget
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity, Memory

QUESTION = "At equal parameters, at which loads does the aspect ratio not matter?"
DENSITY, LABELS, CLAIMED = 0.05, 4, (0.25, 2.0)  # claims of invariance are about loads between the last two
SMALL = "memory_K1_small"  # the second budget
ACTIVE = {"memory_K1": 1, "memory_K2": 2, "representation": None, SMALL: 1}
TASKS = [task for task in ACTIVE if task != SMALL]
READ = {task: active and active * LABELS for task, active in ACTIVE.items()}
LOADS = {"memory_K1": [0.25, 0.5, 0.75, 1, 1.25, 1.375, 1.5, 1.75, 2, 3], SMALL: [1, 1.25, 1.375, 1.5, 1.75, 2, 3],
         "memory_K2": [0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 4, 8, 16],
         "representation": [0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 4, 6]}  # fmt: skip
SEARCHED = {"memory_K1": [1, 1.5, 2], SMALL: [1, 1.5, 2], "memory_K2": [2, 6], "representation": [2, 6]}
STEPS = {"memory_K1": 6000, SMALL: 6000, "memory_K2": 3000, "representation": 1500}
FACTORS = (1, 8 / 3, 8, 64 / 3, 64)  # of aspect ratio, when depth is halved each time
PREDICTED = {"neurons": -1 / 3, "parameters": 0.0, "width": 1 / 3}
PAIRS = {"kaplan_pair": "Kaplan's pair", "note_step": "the note's step", "both_ends": "widest and deepest"}
CLOSE = math.log(1.1) / math.log(8)


def untrained(trained: Trained) -> Estimate:
    """Recovered before the first step."""
    return recovered(trained.at(0))


def ladder(task: str, run: report.Run) -> list[Shape]:
    """Shapes of equal live parameters, deepest first: of those within the tolerance the nearest to FACTORS."""
    deep = Shape(8, 8, 9) if task == SMALL else Shape(12, 16, 12 if task == "representation" else 11)
    base = run.pick(default=deep, quick=Shape(8, 4 if task == SMALL else 8), smoke=Shape(8, 2))
    tolerance, found = run.pick(default=0.012 if task == SMALL else 0.005, quick=0.02), []
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


def grid_of(task: str, run: report.Run, unit: float, cells: list[tuple], axes: dict) -> Grid:
    """One task at (shape, load) or (shape, load, learning rate)."""
    steps, batch = run.pick(default=STEPS[task], quick=STEPS[task] // 4, smoke=4), 512 if task == "memory_K1" else 256
    optimizer, active, most = Adam(beta2=0.99, schedule=Cosine()), ACTIVE[task], max(LOADS[task])
    if active is None:
        features, asked, model = SparseUniform(8, DENSITY), Identity(), Model(UntiedAutoencoder, width=8)
        paths = ("model.width", "model.depth", "model.hidden", "features.n_features", "optimizer.lr")
        points = [(one.width, one.depth, one.hidden, round(load * unit), *lr) for one, load, *lr in cells]
    else:
        features, asked = OnePerGroup(active * round(most * unit / active), active), Memory(LABELS)
        model = Model(ResidualMLP, shape=cells[0][0], unembedding="coordinates")
        paths = ("model.shape", "model.row_norm", "features.offered", "optimizer.lr")
        points = [(shape, math.sqrt(shape.width), load / most, *lr) for shape, load, *lr in cells]
    setting = Setting(features, asked, model, optimizer, steps, batch)
    return Grid(setting, {paths[: len(points[0])]: points} | axes)


def nearest(load: float, loads: list[float]) -> float:
    """The one of `loads` whose logarithm is nearest."""
    return min(loads, key=lambda one: abs(math.log(one / load)))


def equal(tables: list[pd.DataFrame], percent: float, of: str = "held_out_loss") -> stats.Verdict:
    """Whether all shapes agree at each of these loads; undecided where there is none, or a value is not positive."""
    positive = [one for one in tables if (one[of] > 0).all()]
    said = [stats.equivalence(one, percent / 100, shape=["rung"], value=of).verdict for one in positive]
    return stats.every(*said) if said and len(said) == len(tables) else stats.every("undecided", *said)


def log_ratio(rows: pd.DataFrame, pair: tuple[int, int], of: str = "held_out_loss") -> stats.Interval:
    """ln of the wide shape's value over the deep one's at one load, by seed (90%); undefined if one is not > 0."""
    value = rows.pivot(index="seed", columns="rung", values=of)[list(pair)]
    return stats.mean(np.log(value[pair[1]] / value[pair[0]]), 0.9) if (value > 0).all(axis=None) else stats.UNDEFINED


def bracket(table: pd.DataFrame) -> stats.Interval:
    """The last load up to which counts agree within 3%, and the first at which they do not."""
    said = {load: equal([rows], 3, "recovered") for load, rows in table.groupby("load")}
    low = [*itertools.takewhile(lambda load: said[load] == "supported", said)]
    high = [load for load in said if said[load] == "rejected"]
    ends = (low[-1] if low else 0.0, high[0] if high else math.inf)
    return stats.Interval(math.sqrt(ends[0] * ends[1]) if low and high else math.nan, *ends)


def capacities(table: pd.DataFrame) -> pd.DataFrame:
    """Capacity by seed (rows) and shape (columns), of one feature at least."""
    return pd.DataFrame({rung: stats.capacity(rows)["recovered"].clip(1) for rung, rows in table.groupby("rung")})


def slopes(held: pd.DataFrame, shapes: list[Shape]) -> np.ndarray:
    """Each seed's exponent of capacity in the aspect ratio."""
    return np.polyfit(np.log(factors(shapes)), np.log(held.to_numpy().T), 1)[0]


def over(held: pd.DataFrame, pair: tuple[int, int]) -> stats.Interval:
    """Capacity of the second shape over the first's, paired by seed."""
    return stats.ratio(held[pair[1]], held[pair[0]], paired=True)


def pairs_of(shapes: list[Shape]) -> dict[str, tuple[int, int]]:
    """Places of Kaplan's pair scaled down, of the note's step, and of both ends."""
    last = len(shapes) - 1
    step = max(0, last - 3)
    return {"kaplan_pair": (0, min(3, last)), "note_step": (step, min(step + 2, last)), "both_ends": (0, last)}


def against(task: str, held: pd.DataFrame, step: tuple[int, int]) -> tuple[stats.Interval, stats.Verdict]:
    """The note's step (2 blocks over 8) over B over A in model_a_model_b.json; and whether it is 1 within 10%."""
    earlier = Path(__file__).parent.parent / "figures" / "model_a_model_b.json"
    there = json.loads(earlier.read_text(encoding="utf-8"))["statistics"][f"{task}_B_over_A"]
    here = over(held, step)
    reach = math.hypot(math.log(here.high / here.value), math.log(there["high"] / there["value"]))
    found = stats.Interval(*(here.value / there["value"] * math.exp(side * reach) for side in (0, -1, 1)))
    return found, stats.decide(found, (1 / 1.1, 1.1))


def prepared(run: report.Run, shapes: dict, units: dict) -> tuple[pd.DataFrame, dict[str, Grid]]:
    """Every shape's learning rate by task and load, and the grids trained at them, with other steps too."""
    at = {task: run.pick(default=SEARCHED[task], smoke=[2]) for task in ACTIVE}
    tried = {f"{task} {shape} load {load:g}": grid_of(task, run, units[task], [(shape, load)], {"seed": SEARCH_SEEDS})
             for task in ACTIVE for shape in shapes[task] for load in at[task]}  # fmt: skip
    rates = run.pick(default=0.0075 * 2 ** (np.arange(5) / 2), quick=np.array([0.01, 0.02, 0.04]), smoke=[0.01, 0.02])
    found = best_rates(tried, rates, extend=run.pick(default=5, quick=1, smoke=0), results=run.results,
                       device=run.device, workers=run.workers)  # fmt: skip
    grids, seeds = {}, {"seed": range(run.pick(default=8, smoke=2))}
    for task in ACTIVE:
        cells = [(shape, load, float(found.loc[f"{task} {shape} load {nearest(load, at[task]):g}", "lr"]))
                 for shape in shapes[task] for load in run.pick(default=LOADS[task], smoke=[1.5])]  # fmt: skip
        grids[task] = grid_of(task, run, units[task], cells, seeds)
        steps = grids[task].setting.steps
        if task != SMALL:
            full = [cell for cell in cells if cell[1] >= 1]
            grids[f"{task}_half"] = grid_of(task, run, units[task], full, seeds | {"steps": [steps // 2]})
        if task == "memory_K1":
            full = [cell for cell in cells if 1 < cell[1] < 2]
            grids[f"{task}_twice"] = grid_of(task, run, units[task], full, seeds | {"steps": [steps * 2]})
    return found, grids


def main(run: report.Run) -> None:
    shapes = {task: ladder(task, run) for task in ACTIVE}
    units = {task: unit_of(task, shapes[task][0]) for task in ACTIVE}
    found, grids = prepared(run, shapes, units)
    answers = sweep(grids, [held_out_loss, recovered, features_offered, untrained], snapshots=(0,),
                    results=run.results, device=run.device, workers=run.workers)  # fmt: skip

    def gathered(name: str) -> pd.DataFrame:
        table, task = answers[name].table, name.removesuffix("_half").removesuffix("_twice")
        rung = table["depth"].map({shape.depth: rung for rung, shape in enumerate(shapes[task])})
        load = (table["features_offered"] / units[task]).map(lambda load: nearest(load, LOADS[task]))
        aspect = rung.map(dict(enumerate(factors(shapes[task]))))
        own = {"load": load, "rung": rung, "aspect": aspect, "share": table["recovered"] / table["features_offered"]}
        return table.assign(**own, untrained_share=table["untrained"] / table["features_offered"])

    tables = {task: gathered(task) for task in ACTIVE}
    others = {name: gathered(name) for name in grids if name not in ACTIVE}
    held = {task: capacities(table) for task, table in tables.items()}
    exponent = {task: slopes(held[task], shapes[task]) for task in ACTIVE}
    statistics, verdict, controls = {}, {}, {"learning_rate": found.to_dict("index"), "by_load": {}, "capacity": {}}
    controls |= {name: {} for name in ("power_law_misfit", "training_length", "over_model_a_model_b", "untrained")}
    settled, agrees, inside = [], [], []
    for task, table in tables.items():
        statistics[f"{task}_aspect_exponent"] = stats.mean(exponent[task])
        logs, x = np.log(held[task].mean()), np.log(factors(shapes[task]))
        flat = held[task].rename_axis("seed").melt(var_name="rung", value_name="held", ignore_index=False).reset_index()
        statistics[f"{task}_widest_ln_capacity"] = stats.equivalence(flat, 0.1, shape=["rung"], value="held").widest
        verdict[f"{task}_capacity_equal_10pct"] = equal([flat], 10, "held")
        controls["power_law_misfit"][task] = (logs - np.polyval(np.polyfit(x, logs, 1), x)).abs().max()
        controls["untrained"][task] = table["untrained"].max()
        for rung, rows in table.groupby("rung"):
            shape, best = shapes[task][rung], rows.groupby("load")["recovered"].mean().idxmax()
            inside.append(best < max(LOADS[task]))
            row = {"parameters": shape.live_parameters(READ[task]), "aspect_ratio": shape.aspect_ratio}
            row |= {"neurons": shape.note_neurons, "capacity": stats.supremum(rows), "at_load": best}
            controls["capacity"][f"{task} {shape}"] = row
    for task in TASKS:
        table, pairs, tight, slack = tables[task], pairs_of(shapes[task]), [], []
        at_two = table[table["load"] == nearest(2, table["load"].unique())]
        for load, rows in table.groupby("load"):
            free = bool((rows["share"] >= 0.99).all())
            if CLAIMED[0] <= load <= CLAIMED[1]:
                (slack if free else tight).append(rows)
            row = {"slack": free, "loss_3pct": equal([rows], 3), "count_3pct": equal([rows], 3, "recovered")}
            row |= {f"{name}_ln_{of}": log_ratio(rows, pair, column) for name, pair in pairs.items()
                    for of, column in (("loss", "held_out_loss"), ("count", "recovered"))}  # fmt: skip
            controls["by_load"][f"{task} {load:g}"] = row
        said = {f"loss_invariant_{percent}pct": equal(tight, percent) for percent in (1, 3)}
        for name in ("kaplan_pair", "note_step"):
            said[f"{name}_3pct"] = equal([rows[rows["rung"].isin(pairs[name])] for rows in tight], 3)
            statistics[f"{task}_{name}_ln_loss_at_load_2"] = log_ratio(at_two, pairs[name])
            statistics[f"{task}_{name}_capacity"] = over(held[task], pairs[name])
        said["slack_loss_invariant_3pct"] = equal(slack, 3)
        slope = statistics[f"{task}_aspect_exponent"]
        said |= {name: stats.decide(slope, (to - CLOSE, to + CLOSE)) for name, to in PREDICTED.items()}
        verdict |= {f"{task}_{name}": one for name, one in said.items()}
        statistics[f"{task}_invariant_up_to_load"] = bracket(table)
        missed = 1 - at_two.pivot(index="seed", columns="rung", values="share")[list(pairs["kaplan_pair"])]
        worse, better = missed.max(axis=1), missed.min(axis=1)
        statistics[f"{task}_floor_needed"] = stats.mean((worse - better) / 0.03 - better)
        for name in (name for name in others if name.startswith(task)):
            then, now = capacities(others[name]), capacities(table[table["load"].isin(others[name]["load"])])
            drift = stats.mean(slopes(then, shapes[task]) - slopes(now, shapes[task]))
            row = {"exponent_moves": drift, "note_step_capacity": over(then, pairs["note_step"])}
            row["capacity_moves"] = [stats.ratio(then[rung], now[rung], paired=True) for rung in now]
            controls["training_length"][name] = row
            settled.append(stats.decide(drift, CLOSE))
        controls["over_model_a_model_b"][task], same = against(task, held[task], pairs["note_step"])
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
    report.write(run, draw(tables, held, shapes, statistics), statistics=statistics, verdict=verdict,
                 controls=controls, instances=sum(map(len, grids.values())), engine=engine,
                 steps=2 * grids["memory_K1"].setting.steps,
                 seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def draw(tables: dict, held: dict, shapes: dict, statistics: dict) -> plots.Figure:
    """Loss of wide over deep by load; share recovered by aspect ratio; the cylinders; capacity by aspect ratio."""
    figure, axes = plots.figure(2, 4, width=15, height=4.1)
    colours = list(plots.category_colours(range(7)).values())
    shown = [0.25, 0.5, 1, 1.5, 2]
    shades = dict(zip(shown, mpl.colormaps["viridis"](np.linspace(0, 0.92, len(shown))), strict=True))
    for task, (top, bottom) in zip(TASKS, axes[:, :3].T, strict=True):
        table, x = tables[task], factors(shapes[task])
        slack = [load for load, rows in table.groupby("load") if rows["share"].min() >= 0.99]
        for (name, pair), colour in zip(pairs_of(shapes[task]).items(), colours, strict=False):
            label = f"{PAIRS[name]}, {x[pair[1]] / x[pair[0]]:.0f} times the aspect"
            ratios = {load: log_ratio(rows, pair) for load, rows in table[~table["load"].isin(slack)].groupby("load")}
            known = {load: one for load, one in ratios.items() if math.isfinite(one.value)}
            value, low, high = np.exp([[one.value, one.low, one.high] for one in known.values()]).T
            top.plot(list(known), value, marker="o", markersize=5, color=colour, label=label)
            top.fill_between(list(known), low, high, color=colour, alpha=0.2, linewidth=0)
        top.axhspan(1 / 1.03, 1.03, color="0.6", zorder=0, label="equal within 3%")
        top.set(xscale="log", yscale="log", title=named(task), ylabel="held-out loss, wide / deep",
                xlabel="load", xlim=(0.11, None))  # fmt: skip
        top.axvspan(0.11, max(slack, default=0.11), color="0.92", zorder=0, label="slack: all recover 99%")
        top.minorticks_off()
        ticked(top.xaxis, [0.125, 0.25, 0.5, 1, 2, 4, 8, 16])
        if np.divide(*top.get_ylim()[::-1]) < 1000:
            ticked(top.yaxis, [0.125, 0.25, 0.5, 1, 2, 4, 8])
        plots.band(bottom, table[table["load"].isin(shown)], "aspect", "share", "load", colours=shades, log=True)
        two = table[table["load"] == nearest(2, table["load"].unique())].groupby("aspect")["untrained_share"].mean()
        plots.null(bottom, two.index, two, "untrained, load 2")
        part = statistics[f"{task}_invariant_up_to_load"]
        bottom.set(ylim=(-0.02, 1.04), xlabel="aspect ratio / the deepest's", ylabel="share of features recovered",
                   title=f"counts agree up to load {part.low:g}, not at {part.high:g}")  # fmt: skip
    axes[1, 0].legend(title="load", loc="lower left", bbox_to_anchor=(0, 0.08), ncols=3, fontsize=10)
    sketch(axes[0, 3], shapes["representation"])
    ax, span, by_law = axes[1, 3], np.array([1.0, factors(shapes["memory_K1"]).max()]), []
    for name, solid, dash in zip(PREDICTED, ("surface", "volume", "radius"), (":", "--", "-."), strict=True):
        by_law += ax.plot(span, span ** PREDICTED[name], dash, color=plots.GREY, label=f"{solid} ({name})")
    for (task, found), colour in zip(held.items(), colours[3:], strict=True):
        ratios = [over(found, (0, rung)) for rung in found]
        ends = np.array([[one.value, one.value - one.low, one.high - one.value] for one in ratios]).T
        ax.errorbar(factors(shapes[task]), ends[0], yerr=np.where(np.isfinite(ends[1:]), ends[1:], 0), marker="o",
                    markersize=5, capsize=2, color=colour, label=named(task))  # fmt: skip
    ax.add_artist(ax.legend(handles=by_law, loc="lower left", fontsize=9.5))
    ax.legend(handles=ax.get_legend_handles_labels()[0][len(by_law) :], loc="upper left", fontsize=9.5)
    ax.set(xscale="log", yscale="log", xlabel="aspect ratio / the deepest's", ylabel="capacity / the deepest's",
           ylim=(0.07, 25), title="capacity and the cylinder")  # fmt: skip
    ax.minorticks_off()
    ticked(ax.xaxis, [1, 4, 16, 64])
    ticked(ax.yaxis, [0.25, 0.5, 1, 2, 4])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=10)
    exponents = {task: statistics[f"{task}_aspect_exponent"].value for task in TASKS}
    loss = [math.exp(abs(statistics[f"{task}_kaplan_pair_ln_loss_at_load_2"].value)) for task in TASKS]
    figure.suptitle("At equal parameters, capacity goes as aspect ratio to the power "
                    + ", ".join(f"{value:.2f} ({named(task)})" for task, value in exponents.items())
                    + f";\nat load 2 the losses of Kaplan's pair are {min(loss):.1f} to {max(loss):.1f} times "
                    "apart")  # fmt: skip
    return figure


def sketch(ax: plots.Axes, shapes: list[Shape]) -> None:
    """The note's cylinders, radius d and height L (drawn 4 times as high), deepest on top."""
    top, wide = 0.0, shapes[-1].width
    for shape in shapes:
        d, height = shape.width, 4 * shape.depth
        top -= 0.35 * d + height
        ax.add_patch(Ellipse((0, top), 2 * d, 0.3 * d, color="0.75"))
        ax.add_patch(Rectangle((-d, top), 2 * d, height, color="0.75"))
        ax.add_patch(Ellipse((0, top + height), 2 * d, 0.3 * d, facecolor="0.9", edgecolor=plots.GREY))
        ax.annotate(f"{d} wide, {shape.depth} deep\n{shape.note_neurons} neurons", (1.15 * wide, top + height / 2),
                    va="center", fontsize=10)  # fmt: skip
    ax.set(xlim=(-1.05 * wide, 2.8 * wide), ylim=(top - 0.2 * wide, 0.1 * wide), aspect="equal",
           title=f"equal volume, surface {shapes[0].note_neurons} to {shapes[-1].note_neurons}")  # fmt: skip
    ax.axis("off")


def ticked(axis: Axis, ticks: list[float]) -> None:
    """Ticks at those of `ticks` that are in view, and no others."""
    low, high = axis.get_view_interval()
    axis.set_ticks(shown := [tick for tick in ticks if low <= tick <= high], [f"{tick:g}" for tick in shown])


def named(task: str) -> str:
    """A task's name as the figure says it."""
    return task.replace("_small", ", smaller").replace("_K1", ", K=1").replace("_K2", ", K=2")


def factors(shapes: list[Shape]) -> np.ndarray:
    """Aspect ratio over the deepest shape's."""
    return np.array([shape.aspect_ratio for shape in shapes]) / shapes[0].aspect_ratio


if __name__ == "__main__":
    report.experiment(main)
