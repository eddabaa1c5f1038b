"""Does the shape of a network matter at equal parameters? Aspect ratios 64-fold apart, from slack to overfull.

Kaplan et al. (2020, figure 5): at fixed non-embedding parameters the loss hardly depends on shape; (6 layers, 4288
wide) comes within 3% of (48, 1600). Katta (2024) takes this as a postulate, and pictures a cylinder of radius d and
height L: parameters are its volume, neurons its surface. Here shapes of equal live parameters N have 16 to 1 blocks;
depths 16 and 2 are Kaplan's pair scaled down, 8 and 2 the note's step. Tasks: K = 1 or 2 facts at once (four labels),
and representation (U[0, 1], density 0.05). Load 1 is N facts at K = 1, else about what the note's model A holds. Claims
of invariance are about loads 0.25 to 2; a load where every shape recovers 99% for every seed is slack: losses are next
to nothing there. From F = C d^a L^b follows F ~ A^((a - 2b) / 3) in the aspect ratio A: exponent -1/3 if neurons count,
0 if parameters do, 1/3 if one layer's width does, within 10% of the note's eightfold move. `floor_needed` is the
irreducible loss, over that of guessing, that Kaplan's pair would need on top to come within 3%. After the first default
run: loads 1.375, 1.75 and twice the steps at K = 1. --quick 50 seconds, default 8 minutes.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd

from toysup import plots, stats
from toysup.features import OnePerGroup, SparseUniform
from toysup.measure import features_offered, held_out_loss, recovered, untrained
from toysup.models import ResidualMLP, UntiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape, shapes_by_halving
from toysup.study import Check, Claim, Finding, Run, Search, Study, Variant, bracketed, experiment
from toysup.tasks import Identity, Memory

QUESTION = "At equal parameters, at which loads does the aspect ratio not matter?"
DENSITY, LABELS, CLAIMED = 0.05, 4, (0.25, 2.0)
SMALL = "memory_K1_small"  # the second budget
ACTIVE = {"memory_K1": 1, "memory_K2": 2, "representation": 0, SMALL: 1}
NAMES = dict(zip(ACTIVE, ("memory, K=1", "memory, K=2", "representation", "memory, K=1, smaller"), strict=True))
UNITS = {"memory_K2": 160, "representation": 64}  # features at load 1 of 12 dimensions; else one for each parameter
TASKS = [task for task in ACTIVE if task != SMALL]
READ = {task: K * LABELS or None for task, K in ACTIVE.items()}
LOADS = {"memory_K1": [0.25, 0.5, 0.75, 1, 1.25, 1.375, 1.5, 1.75, 2, 3], SMALL: [1, 1.25, 1.375, 1.5, 1.75, 2, 3],
         "memory_K2": [0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 4, 8, 16],
         "representation": [0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 4, 6]}  # fmt: skip
SEARCHED = {"memory_K1": [1, 1.5, 2], SMALL: [1, 1.5, 2], "memory_K2": [2, 6], "representation": [2, 6]}
STEPS = {"memory_K1": 6000, SMALL: 6000, "memory_K2": 3000, "representation": 1500}
FACTORS = (1, 8 / 3, 8, 64 / 3, 64)  # of aspect ratio, when depth is halved each time
PREDICTED = {"neurons": -1 / 3, "parameters": 0.0, "width": 1 / 3}
PAIRS = {"kaplan_pair": "Kaplan's pair", "note_step": "the note's step", "both_ends": "widest and deepest"}
LOSS, OTHER, CLOSE = "held_out_loss", ("half the steps", "twice the steps"), math.log(1.1) / math.log(8)


class Cell(NamedTuple):
    """One shape (the deepest is rung 0) at one load; `aspect`: d / L over the deepest's; `unit`: features at load 1."""

    task: str
    rung: int
    shape: Shape
    aspect: float
    unit: float
    load: float


def study(run: Run) -> Study:
    deep = {task: Shape(12, 16, 12 if task == "representation" else 11) for task in TASKS} | {SMALL: Shape(8, 8, 9)}
    size = run.sizes(dict(deep=deep, tolerance=dict.fromkeys(TASKS, 0.005) | {SMALL: 0.012}, shorter=1, loads=LOADS,
                          searched=SEARCHED, rates=tuple(0.0075 * 2 ** (np.arange(5) / 2)), extend=5, seeds=8),
                     quick=dict(deep=dict.fromkeys(TASKS, Shape(8, 8)) | {SMALL: Shape(8, 4)}, shorter=8,
                                tolerance=dict.fromkeys(ACTIVE, 0.02), rates=(0.015, 0.03), extend=0, seeds=4),
                     smoke=dict(deep=dict.fromkeys(ACTIVE, Shape(8, 2)), loads={task: [1.5] for task in ACTIVE},
                                searched={task: [2] for task in ACTIVE}, rates=(0.01, 0.02), extend=0, seeds=2)
                     )  # fmt: skip

    def grid(cell: Cell) -> Setting:
        K, shape, most = ACTIVE[cell.task], cell.shape, max(LOADS[cell.task])
        if K:
            facts = OnePerGroup(K * round(most * cell.unit / K), K, offered=cell.load / most)
            model = Model(ResidualMLP, shape=shape, unembedding="coordinates", row_norm=math.sqrt(shape.width))
            asked = facts, Memory(LABELS), model
        else:
            model = Model(UntiedAutoencoder, width=shape.width, depth=shape.depth, hidden=shape.hidden)
            asked = SparseUniform(round(cell.load * cell.unit), DENSITY), Identity(), model
        steps = 4 if run.mode == "smoke" else STEPS[cell.task] // size.shorter
        return Setting(*asked, Adam(beta2=0.99, schedule=Cosine()), steps, 512 if cell.task == "memory_K1" else 256)

    cells: list[Cell] = []
    for task in ACTIVE:
        shapes = shapes_by_halving(size.deep[task], FACTORS, tolerance=size.tolerance[task], read=READ[task])
        first = shapes[0]
        unit = first.width / 12 * UNITS[task] if task in UNITS else first.live_parameters(LABELS)
        cells += [Cell(task, rung, shape, shape.aspect_ratio / first.aspect_ratio, unit, load)
                  for rung, shape in enumerate(shapes) for load in size.loads[task]]  # fmt: skip
    three = {"task": TASKS}
    there = json.loads((Path(__file__).parents[1] / "figures/model_a_model_b.json").read_text("utf-8"))["statistics"]
    of_losses = ["length_does_not_decide", "learning_rate_bracketed"]  # laws rest on all checks
    of_capacities = [*of_losses, "agrees_with_model_a_model_b", "capacity_inside_loads"]
    invariances = [
        ("loss_invariant_1pct", "all shapes' losses agree within 1%", dict(percent=1)),
        ("loss_invariant_3pct", "all shapes' losses agree within 3%", dict(percent=3)),
        ("kaplan_pair_3pct", "the losses of Kaplan's pair agree within 3%", dict(pair="kaplan_pair")),
        ("note_step_3pct", "the losses before and after the note's step agree within 3%", dict(pair="note_step")),
        ("slack_loss_invariant_3pct", "all shapes' losses agree within 3% at slack loads", dict(slack=True)),
    ]
    return Study(
        cells, grid, measures=[held_out_loss, recovered, features_offered, untrained], seeds=size.seeds, snapshots=(0,),
        search=Search(lambda cell: grid(cell._replace(load=nearest(cell.load, size.searched[cell.task]))), size.rates,
                      extend=size.extend),
        variants={"half the steps": Variant({"steps": 0.5}, lambda c: c.task != SMALL and c.load >= 1),
                  "twice the steps": Variant({"steps": 2}, lambda c: c.task == "memory_K1" and 1 < c.load < 2)},
        derive=lambda table: table.assign(share=table["recovered"] / table["features_offered"],
                                          untrained_share=table["untrained"] / table["features_offered"]),
        findings={
            "held": Finding(lambda rows: stats.capacities(rows, "rung").clip(1), "task", kept=False),
            "aspects": Finding(lambda rows: rows.groupby("rung")["aspect"].first(), "task", kept=False),
            "slopes": Finding(lambda held, aspects: stats.slopes(held, aspects), "task", kept=False),
            "best_load": Finding(lambda rows: rows.groupby("load")["recovered"].mean().idxmax(), ("task", "rung")),
            "aspect_exponent": Finding(lambda slopes: stats.mean(slopes), "task", "{task}_aspect_exponent"),
            "same": Finding(lambda held: stats.equivalence(held.stack().rename("held").reset_index(), 0.1,
                                                           shape=["rung"], value="held"), "task", kept=False),
            "widest": Finding(lambda same: same.widest, "task", "{task}_widest_ln_capacity"),
            "power_law_misfit": Finding(lambda held, aspects: stats.misfit(held, aspects), "task"),
            "capacity": Finding(lambda rows: {"shape": str(rows["shape"].iloc[0]), "capacity": stats.supremum(rows)},
                                ("task", "rung")),
            "by_load": Finding(one_load, ("task", "load"), where=three),
            "numbers": Finding(one_task, "task", "{task}_{column}", three),
            "over_model_a_model_b": Finding(lambda task, numbers: stats.quotient(
                numbers["note_step_capacity"], stats.Interval(**there[f"{task}_B_over_A"])), "task", where=three),
            "at_two": Finding(lambda rows: rows[rows["load"] == nearest(2, rows["load"].unique())], "task", kept=False),
            "other_steps": Finding(other_steps, ("task", "variant"), where={"variant": OTHER}, variant=None),
            "second_budget": Finding(lambda slopes: stats.mean(slopes[SMALL] - slopes["memory_K1"])),
        },
        claims=[
            *(Claim(name, f"{says} (loads 0.25 to 2)", lambda rows, how=how: invariant(rows, **how), by="task",
                    where=three, each=f"{{task}}_{name}", checks=of_losses) for name, says, how in invariances),
            *(Claim(name, f"capacity goes as aspect ratio as if {name} count", "aspect_exponent",
                    (to - CLOSE, to + CLOSE), where=three, each=f"{{task}}_{name}") for name, to in PREDICTED.items()),
            Claim("capacity_equal_10pct", "all shapes' capacities agree within 10%", "same.verdict",
                  each="{task}_capacity_equal_10pct", checks=of_capacities),
            Check("length_does_not_decide", "half and twice the steps move no exponent by 0.046",
                  "other_steps", CLOSE),
            Check("agrees_with_model_a_model_b", "2 blocks over 8 is B over A in model_a_model_b, within 10%",
                  "over_model_a_model_b", (1 / 1.1, 1.1)),
            Check("second_budget_agrees", "with a quarter of the parameters the exponent is the same", "second_budget",
                  CLOSE),
            bracketed(),
            Check("capacity_inside_loads", "capacity is reached below the highest load",
                  lambda best_load, task: bool(best_load < max(LOADS[task])), by=("task", "rung"),
                  otherwise="undecided"),
        ],
        draw=draw, answer=answer)  # fmt: skip


def nearest(load: float, loads: list[float]) -> float:
    """The one of `loads` whose logarithm is nearest."""
    return min(loads, key=lambda one: abs(math.log(one / load)))


def pair_of(name: str, last: int) -> tuple[int, int]:
    """The rungs of a pair, where the last one is the widest."""
    step = max(0, last - 3)
    return {"kaplan_pair": (0, min(3, last)), "note_step": (step, min(step + 2, last)), "both_ends": (0, last)}[name]


def equal(rows: pd.DataFrame, percent: float, of: str = LOSS) -> stats.Verdict:
    """Whether all shapes agree at each load; undecided where there is none, or a value is not positive."""
    said = [stats.equivalence(own, percent / 100, shape=["rung"], value=of).verdict if (own[of] > 0).all()
            else "undecided" for _, own in rows.groupby("load")]  # fmt: skip
    return stats.every(*said or ["undecided"])


def invariant(rows: pd.DataFrame, percent: float = 3, pair: str = "", slack: bool = False) -> stats.Verdict:
    """Whether losses agree at all claimed loads that are slack, or at all that are not; of all shapes or of a pair."""
    own = rows[rows["rung"].isin(pair_of(pair, rows["rung"].max()))] if pair else rows
    free = rows.groupby("load")["share"].min() >= 0.99
    return equal(own[own["load"].between(*CLAIMED) & (own["load"].map(free) == slack)], percent)


def one_load(rows: pd.DataFrame) -> dict[str, Any]:
    """Whether shapes agree; ln of wide shapes' losses over deep ones', by seed (90%); undefined if one is not > 0."""
    loss = rows.pivot(index="seed", columns="rung", values=LOSS)
    pairs = {name: loss[[*pair_of(name, loss.columns[-1])]].set_axis(["deep", "wide"], axis=1) for name in PAIRS}
    ratios = {f"{name}_ln_loss": stats.mean(np.log(own["wide"] / own["deep"]), 0.9) if (own > 0).all(axis=None)
              else stats.UNDEFINED for name, own in pairs.items()}  # fmt: skip
    return {"slack": bool((rows["share"] >= 0.99).all()), "loss_3pct": equal(rows, 3),
            "count_3pct": equal(rows, 3, "recovered"), **ratios}  # fmt: skip


def one_task(at_two: pd.DataFrame, held: pd.DataFrame, by_load: dict, task: str) -> dict[str, stats.Interval]:
    """Of both pairs, at load 2 and at capacity; up to which load counts agree within 3% and where not; the floor."""
    own, found = {load: found for (other, load), found in by_load.items() if other == task}, {}
    for name in ("kaplan_pair", "note_step"):
        deep, wide = pair_of(name, held.columns[-1])
        found |= {f"{name}_ln_loss_at_load_2": own[at_two["load"].iloc[0]][f"{name}_ln_loss"],
                  f"{name}_capacity": stats.ratio(held[wide], held[deep], paired=True)}  # fmt: skip
    missed = 1 - at_two.pivot(index="seed", columns="rung", values="share")[[*pair_of("kaplan_pair", held.columns[-1])]]
    worse, better = missed.max(axis=1), missed.min(axis=1)
    found["floor_needed"] = stats.mean((worse - better) / 0.03 - better)
    return found | {"invariant_up_to_load": stats.holds_up_to({load: one["count_3pct"] for load, one in own.items()})}


def other_steps(rows: pd.DataFrame, table: pd.DataFrame, aspects: pd.Series) -> stats.Interval:
    """By how much other steps move the exponent."""
    usual = table[(table["variant"] == "") & table["cell"].isin(rows["cell"])]
    then, now = (stats.slopes(stats.capacities(own, "rung").clip(1), aspects) for own in (rows, usual))
    return stats.mean(then - now)


def answer(aspect_exponent: dict, numbers: dict) -> str:
    powers = ", ".join(f"{aspect_exponent[task].value:.2f} ({NAMES[task]})" for task in TASKS)
    apart = [math.exp(abs(own["kaplan_pair_ln_loss_at_load_2"].value)) for own in numbers.values()]
    losses = f"are {min(apart):.1f} to {max(apart):.1f} times apart" if np.isfinite(apart).all() else "can't be told"
    return f"""At equal parameters what is held goes as aspect ratio to the power {powers}; losses of two shapes as far
        apart as Kaplan's {losses} at load 2, where more is asked than a network holds."""


def draw(rows: pd.DataFrame, held: dict, aspects: dict, by_load: dict, numbers: dict, at_two: dict) -> plots.Figure:
    """Loss of wide over deep by load; share recovered by aspect ratio; the cylinders; capacity by aspect ratio."""
    figure, axes = plots.figure(2, 4, width=15, height=4.1)
    shown = [f"load {load:g}" for load in (0.25, 0.5, 1, 1.5, 2)]
    shades = dict(zip(shown, mpl.colormaps["viridis"](np.linspace(0, 0.92, len(shown))), strict=True))
    for task, (top, bottom) in zip(TASKS, axes[:, :3].T, strict=True):
        x, loads = aspects[task], {load: found for (own, load), found in sorted(by_load.items()) if own == task}
        for name, colour in plots.category_colours(PAIRS).items():
            deep, wide = pair_of(name, x.index[-1])
            ratios = {load: found[f"{name}_ln_loss"].transformed(np.exp) for load, found in loads.items() if
                      not found["slack"]}  # fmt: skip
            plots.curve(top, ratios, color=colour, label=f"{PAIRS[name]}, {x[wide] / x[deep]:.0f} times the aspect")
        plots.zone(top, 1 / 1.03, 1.03, "equal within 3%", color="0.6", legend=True)
        slack = max((load for load, found in loads.items() if found["slack"]), default=0.11)
        plots.zone(top, 0.11, slack, "slack: all recover 99%", upright=True, color="0.92", legend=True)
        plots.ticks(top, x=[0.125, 0.5, 1, 2, 4, 8, 16], log="x")
        top.set(xlim=(0.11, None), yscale="log", title=NAMES[task], xlabel="load", ylabel="held-out loss, wide / deep")
        if np.divide(*top.get_ylim()[::-1]) < 1000:
            plots.ticks(top, y=[0.125, 0.25, 0.5, 1, 2, 4, 8])
        shaded = rows[rows["task"] == task].assign(load=lambda own: own["load"].map("load {:g}".format))
        plots.band(bottom, shaded, "aspect", "share", "load", colours=shades, log=True)
        before = at_two[task].groupby("aspect")["untrained_share"].mean()
        plots.null(bottom, before.index, before, "untrained, load 2")
        part = numbers[task]["invariant_up_to_load"]
        bottom.set(ylim=(-0.02, 1.04), xlabel="aspect ratio / the deepest's", ylabel="share of features recovered",
                   title=f"counts agree up to\nload {part.low:g}, not at {part.high:g}")  # fmt: skip
    shapes = list(rows[rows["task"] == "representation"].groupby("rung")["shape"].first())
    plots.cylinders(axes[0, 3], shapes)
    axes[0, 3].set_title(f"equal volume, surface {shapes[0].note_neurons} to {shapes[-1].note_neurons}")
    ax, span = axes[1, 3], np.array([1.0, aspects["memory_K1"].max()])
    for task, counts in held.items():
        plots.interval(ax, aspects[task], [stats.ratio(counts[rung], counts[0], paired=True) for rung in counts],
                       linestyle="-", label=NAMES[task])  # fmt: skip
    solids = ("surface", "volume", "radius")
    for (name, power), solid, dash in zip(PREDICTED.items(), solids, (":", "--", "-."), strict=True):
        ax.plot(span, span**power, color=plots.GREY, linestyle=dash, label=f"{solid} ({name})")
    ax.set(yscale="log", xlabel="aspect ratio / the deepest's", ylabel="capacity / the deepest's", ylim=(0.07, 25),
           title="capacity and the cylinder")  # fmt: skip
    plots.ticks(ax, x=[1, 4, 16, 64], y=[0.25, 0.5, 1, 2, 4], log=True)
    plots.legend(ax, loc="upper left", size=9, ncols=2)
    plots.legend(figure)
    return figure


if __name__ == "__main__":
    experiment(study)
