"""Does the shape of a network matter at equal parameters? Aspect ratios 64-fold apart, from slack to overfull.

Kaplan et al. (2020, figure 5): at fixed non-embedding parameters the loss hardly depends on shape; (6 layers, 4288
wide) comes within 3% of (48, 1600). Katta (2024) takes this as a postulate, and pictures a cylinder of radius d and
height L: parameters are its volume, neurons its surface. Here shapes of equal live parameters N have 16 to 1 blocks;
depths 16 and 2 are Kaplan's pair scaled down, 8 and 2 the note's step. Tasks: K = 1 or 2 facts at once (four labels),
and representation (U[0, 1], density 0.05). Load 1 is N facts at K = 1, else about what the note's model A holds. Claims
of invariance are about loads 0.25 to 2; a load where every shape recovers 99% for every seed is slack: losses are next
to nothing there. From F = C d^a L^b follows F ~ A^((a - 2b) / 3) in the aspect ratio A: exponent -1/3 if neurons count,
0 if parameters do, 1/3 if one layer's width does, within 10% of the note's eightfold move. `floor_needed` is the
irreducible loss, over that of guessing, that Kaplan's pair would need on top to come within 3%.

After the first default run: loads 1.375, 1.75 and twice the steps at K = 1. --quick 50 seconds, default 8 minutes.
"""

import itertools
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.patches import Ellipse, Rectangle

from toysup import plots, stats
from toysup.features import OnePerGroup, SparseUniform
from toysup.measure import features_offered, held_out_loss, recovered, untrained
from toysup.models import ResidualMLP, UntiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting, set_paths
from toysup.shapes import Shape, shapes_at_budget
from toysup.study import Check, Claim, Finding, Run, Search, Study, Variant, bracketed, experiment
from toysup.sweep import Grid
from toysup.tasks import Identity, Memory

QUESTION = "At equal parameters, at which loads does the aspect ratio not matter?"
DENSITY, LABELS, CLAIMED = 0.05, 4, (0.25, 2.0)
SMALL = "memory_K1_small"  # the second budget
ACTIVE = {"memory_K1": 1, "memory_K2": 2, "representation": 0, SMALL: 1}
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
CLOSE = math.log(1.1) / math.log(8)
LOSS, OTHER = "held_out_loss", ("half the steps", "twice the steps")


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
    size = run.sizes(
        dict(deep=deep, tolerance=dict.fromkeys(TASKS, 0.005) | {SMALL: 0.012}, shorter=1, loads=LOADS,
             searched=SEARCHED, rates=tuple(0.0075 * 2 ** (np.arange(5) / 2)), extend=5, seeds=8),
        quick=dict(deep=dict.fromkeys(TASKS, Shape(8, 8)) | {SMALL: Shape(8, 4)}, tolerance=dict.fromkeys(ACTIVE, 0.02),
                   shorter=4, rates=(0.01, 0.02, 0.04), extend=1),
        smoke=dict(deep=dict.fromkeys(ACTIVE, Shape(8, 2)), loads={task: [1.5] for task in ACTIVE},
                   searched={task: [2] for task in ACTIVE}, rates=(0.01, 0.02), extend=0, seeds=2),
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

    def halved(own: Grid) -> Grid:
        return Grid(set_paths(own.setting, {"steps": own.setting.steps // 2}), own.axes)

    cells = [Cell(task, rung, shape, shape.aspect_ratio / shapes[0].aspect_ratio, unit_of(task, shapes[0]), load)
             for task in ACTIVE for shapes in [ladder(task, size.deep[task], size.tolerance[task])]
             for rung, shape in enumerate(shapes) for load in size.loads[task]]  # fmt: skip
    three = {"task": TASKS}
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
        variants={"half the steps": Variant(halved, lambda c: c.task != SMALL and c.load >= 1),
                  "twice the steps": Variant({"steps": 2}, lambda c: c.task == "memory_K1" and 1 < c.load < 2)},
        derive=lambda table: table.assign(share=table["recovered"] / table["features_offered"],
                                          untrained_share=table["untrained"] / table["features_offered"]),
        findings={
            "held": Finding(capacities, "task", kept=False),
            "aspects": Finding(lambda rows: rows.groupby("rung")["aspect"].first(), "task", kept=False),
            "slopes": Finding(slopes, "task", kept=False),
            "aspect_exponent": Finding(lambda slopes: stats.mean(slopes), "task", "{task}_aspect_exponent"),
            "same": Finding(lambda held: stats.equivalence(
                held.melt(var_name="rung", value_name="held", ignore_index=False).reset_index(), 0.1, shape=["rung"],
                value="held"), "task", kept=False),
            "widest": Finding(lambda same: same.widest, "task", "{task}_widest_ln_capacity"),
            "power_law_misfit": Finding(misfit, "task"),
            "capacity": Finding(one_shape, ("task", "rung")),
            "by_load": Finding(one_load, ("task", "load"), where=three),
            "numbers": Finding(one_task, "task", "{task}_{column}", three),
            "over_model_a_model_b": Finding(against, "task", where=three),
            "other_steps": Finding(other_steps, ("task", "variant"), where={"variant": OTHER}, variant=None),
            "second_budget": Finding(lambda slopes: stats.mean(slopes[SMALL] - slopes["memory_K1"])),
            "untrained_most": Finding(lambda rows: rows["untrained"].max(), "task"),
        },
        claims=[
            *(Claim(name, f"{says} (loads 0.25 to 2)", lambda rows, how=how: invariant(rows, **how), by="task",
                    where=three, each=f"{{task}}_{name}") for name, says, how in invariances),
            *(Claim(name, f"capacity goes as aspect ratio as if {name} count", "aspect_exponent",
                    (to - CLOSE, to + CLOSE), where=three, each=f"{{task}}_{name}") for name, to in PREDICTED.items()),
            Claim("capacity_equal_10pct", "all shapes' capacities agree within 10%", "same.verdict",
                  each="{task}_capacity_equal_10pct"),
            Check("length_does_not_decide", "half and twice the steps move no exponent by 0.046",
                  "other_steps.exponent_moves", CLOSE),
            Check("agrees_with_model_a_model_b", "2 blocks over 8 is B over A in model_a_model_b, within 10%",
                  "over_model_a_model_b", (1 / 1.1, 1.1)),
            Check("second_budget_agrees", "a quarter of the parameters: the same exponent", "second_budget", CLOSE),
            bracketed(),
            Check("capacity_inside_loads", "capacity is reached below the highest load",
                  lambda rows, task: bool(best_load(rows) < max(LOADS[task])), by=("task", "rung"),
                  otherwise="undecided"),
        ],
        draw=draw, answer=answer,
    )  # fmt: skip


def ladder(task: str, deep: Shape, tolerance: float) -> list[Shape]:
    """Shapes of equal live parameters, deepest first: of those within the tolerance the nearest to FACTORS."""
    found = []
    for power in range(deep.depth.bit_length()):
        near = shapes_at_budget(deep.live_parameters(READ[task]), tolerance=tolerance, depths=[deep.depth >> power],
                                hidden_ratio=None, read=READ[task])  # fmt: skip
        aspect = deep.aspect_ratio * FACTORS[power]
        found.append(min((one.shape for one in near), key=lambda shape: abs(math.log(shape.aspect_ratio / aspect))))
    return found


def unit_of(task: str, deep: Shape) -> float:
    """Features at load 1."""
    if ACTIVE[task] == 1:
        return deep.live_parameters(LABELS)
    return deep.width / 12 * (64 if task == "representation" else 160)


def nearest(load: float, loads: list[float]) -> float:
    """The one of `loads` whose logarithm is nearest."""
    return min(loads, key=lambda one: abs(math.log(one / load)))


def pair_of(name: str, last: int) -> tuple[int, int]:
    """The rungs of a pair, where the last one is the widest."""
    step = max(0, last - 3)
    return {"kaplan_pair": (0, min(3, last)), "note_step": (step, min(step + 2, last)), "both_ends": (0, last)}[name]


def equal(tables: list[pd.DataFrame], percent: float, of: str = LOSS) -> stats.Verdict:
    """Whether all shapes agree at each of these loads; undecided where there is none, or a value is not positive."""
    margin = percent / 100
    said = [stats.equivalence(one, margin, shape=["rung"], value=of).verdict for one in tables if (one[of] > 0).all()]
    return stats.every(*said, *(["undecided"] if len(said) < max(1, len(tables)) else []))


def invariant(rows: pd.DataFrame, percent: float = 3, pair: str = "", slack: bool = False) -> stats.Verdict:
    """Whether losses agree at all claimed loads that are slack, or at all that are not; of all shapes or of a pair."""
    own = rows[rows["rung"].isin(pair_of(pair, rows["rung"].max()))] if pair else rows
    free = rows.groupby("load")["share"].min() >= 0.99
    return equal([one for load, one in own.groupby("load") if CLAIMED[0] <= load <= CLAIMED[1] and free[load] == slack],
                 percent)  # fmt: skip


def log_ratio(rows: pd.DataFrame, name: str, of: str = LOSS) -> stats.Interval:
    """ln of the wide shape's value over the deep one's at one load, by seed (90%); undefined if one is not > 0."""
    deep, wide = pair_of(name, rows["rung"].max())
    value = rows.pivot(index="seed", columns="rung", values=of)[[deep, wide]]
    return stats.mean(np.log(value[wide] / value[deep]), 0.9) if (value > 0).all(axis=None) else stats.UNDEFINED


def capacities(rows: pd.DataFrame) -> pd.DataFrame:
    """By seed and rung, of one feature at least."""
    return stats.capacities(rows, "rung").clip(1)


def slopes(held: pd.DataFrame, aspects: pd.Series) -> np.ndarray:
    """Each seed's exponent of capacity in the aspect ratio."""
    return np.polyfit(np.log(aspects), np.log(held.to_numpy().T), 1)[0]


def over(held: pd.DataFrame, name: str) -> stats.Interval:
    """Capacity of a pair's wide shape over the deep one's."""
    deep, wide = pair_of(name, held.columns[-1])
    return stats.ratio(held[wide], held[deep], paired=True)


def misfit(held: pd.DataFrame, aspects: pd.Series) -> float:
    """The largest residual of the power law, in ln F."""
    x, logs = np.log(aspects), np.log(held.mean())
    return (logs - np.polyval(np.polyfit(x, logs, 1), x)).abs().max()


def best_load(rows: pd.DataFrame) -> float:
    return rows.groupby("load")["recovered"].mean().idxmax()


def one_shape(rows: pd.DataFrame, task: str) -> dict[str, Any]:
    shape = rows["shape"].iloc[0]
    return {"shape": str(shape), "parameters": shape.live_parameters(READ[task]), "aspect_ratio": shape.aspect_ratio,
            "neurons": shape.note_neurons, "capacity": stats.supremum(rows), "at_load": best_load(rows)}  # fmt: skip


def one_load(rows: pd.DataFrame) -> dict[str, Any]:
    ratios = {f"{name}_ln_{of}": log_ratio(rows, name, column) for name in PAIRS
              for of, column in (("loss", LOSS), ("count", "recovered"))}  # fmt: skip
    return {"slack": bool((rows["share"] >= 0.99).all()), "loss_3pct": equal([rows], 3),
            "count_3pct": equal([rows], 3, "recovered"), **ratios}  # fmt: skip


def one_task(rows: pd.DataFrame, held: pd.DataFrame) -> dict[str, stats.Interval]:
    """Of both pairs, at load 2 and at capacity; up to which load counts agree within 3% and where not; the floor."""
    at_two, found = rows[rows["load"] == nearest(2, rows["load"].unique())], {}
    for name in ("kaplan_pair", "note_step"):
        found |= {f"{name}_ln_loss_at_load_2": log_ratio(at_two, name), f"{name}_capacity": over(held, name)}
    said = {load: equal([own], 3, "recovered") for load, own in rows.groupby("load")}
    low = [*itertools.takewhile(lambda load: said[load] == "supported", said)]
    high = [load for load in said if said[load] == "rejected"]
    ends = (low[-1] if low else 0.0, high[0] if high else math.inf)
    found["invariant_up_to_load"] = stats.Interval(math.sqrt(ends[0] * ends[1]) if low and high else math.nan, *ends)
    missed = 1 - at_two.pivot(index="seed", columns="rung", values="share")
    missed = missed[list(pair_of("kaplan_pair", missed.columns[-1]))]
    worse, better = missed.max(axis=1), missed.min(axis=1)
    return found | {"floor_needed": stats.mean((worse - better) / 0.03 - better)}


def other_steps(rows: pd.DataFrame, table: pd.DataFrame, aspects: pd.Series) -> dict[str, Any]:
    """What other steps move, in the exponent and in each shape's capacity."""
    usual = table[(table["variant"] == "") & table["cell"].isin(rows["cell"])]
    then, now = capacities(rows), capacities(usual)
    return {"exponent_moves": stats.mean(slopes(then, aspects) - slopes(now, aspects)),
            "note_step_capacity": over(then, "note_step"),
            "capacity_moves": [stats.ratio(then[rung], now[rung], paired=True) for rung in now]}  # fmt: skip


def against(task: str, held: pd.DataFrame) -> stats.Interval:
    """The note's step (2 blocks over 8) over B over A in model_a_model_b.json."""
    earlier = Path(__file__).parent.parent / "figures" / "model_a_model_b.json"
    there = json.loads(earlier.read_text(encoding="utf-8"))["statistics"][f"{task}_B_over_A"]
    here = over(held, "note_step")
    reach = math.hypot(math.log(here.high / here.value), math.log(there["high"] / there["value"]))
    return stats.Interval(*(here.value / there["value"] * math.exp(side * reach) for side in (0, -1, 1)))


def named(task: str) -> str:
    """A task's name as the figure says it."""
    return task.replace("_small", ", smaller").replace("_K1", ", K=1").replace("_K2", ", K=2")


def answer(aspect_exponent: dict, numbers: dict) -> str:
    powers = ", ".join(f"{aspect_exponent[task].value:.2f} ({named(task)})" for task in TASKS)
    apart = [math.exp(abs(own["kaplan_pair_ln_loss_at_load_2"].value)) for own in numbers.values()]
    losses = f"are {min(apart):.1f} to {max(apart):.1f} times apart" if np.isfinite(apart).all() else "can't be told"
    return f"""At equal parameters what is held goes as aspect ratio to the power {powers}; losses of two shapes as far
        apart as Kaplan's {losses} at load 2, where more is asked than a network holds."""


def draw(rows: pd.DataFrame, held: dict, aspects: dict, by_load: dict, numbers: dict) -> plots.Figure:
    """Loss of wide over deep by load; share recovered by aspect ratio; the cylinders; capacity by aspect ratio."""
    figure, axes = plots.figure(2, 4, width=15, height=4.1)
    shown = [f"load {load:g}" for load in (0.25, 0.5, 1, 1.5, 2)]
    shades = dict(zip(shown, mpl.colormaps["viridis"](np.linspace(0, 0.92, len(shown))), strict=True))
    for task, (top, bottom) in zip(TASKS, axes[:, :3].T, strict=True):
        table, x = rows[rows["task"] == task], aspects[task]
        loads = {load: found for (own, load), found in sorted(by_load.items()) if own == task}
        for name, colour in plots.category_colours(PAIRS).items():
            deep, wide = pair_of(name, x.index[-1])
            ratios = pd.DataFrame({load: found[f"{name}_ln_loss"].asdict() for load, found in loads.items()
                                   if not found["slack"]}).T  # fmt: skip
            plots.curve(top, ratios.index, np.exp(ratios), color=colour,
                        label=f"{PAIRS[name]}, {x[wide] / x[deep]:.0f} times the aspect")  # fmt: skip
        plots.zone(top, 1 / 1.03, 1.03, "equal within 3%", color="0.6", legend=True)
        slack = max((load for load, found in loads.items() if found["slack"]), default=0.11)
        plots.zone(top, 0.11, slack, "slack: all recover 99%", upright=True, color="0.92", legend=True)
        top.set(yscale="log", title=named(task), xlabel="load", ylabel="held-out loss, wide / deep")
        plots.ticks(top, x=[0.125, 0.5, 1, 2, 4, 8, 16], log="x")
        top.set_xlim(0.11, None)
        if np.divide(*top.get_ylim()[::-1]) < 1000:
            plots.ticks(top, y=[0.125, 0.25, 0.5, 1, 2, 4, 8])
        named_loads = table.assign(shade=[f"load {load:g}" for load in table["load"]])
        plots.band(bottom, named_loads, "aspect", "share", "shade", colours=shades, log=True)
        two = table[table["load"] == nearest(2, table["load"].unique())].groupby("aspect")["untrained_share"].mean()
        plots.null(bottom, two.index, two, "untrained, load 2")
        part = numbers[task]["invariant_up_to_load"]
        bottom.set(ylim=(-0.02, 1.04), xlabel="aspect ratio / the deepest's", ylabel="share of features recovered",
                   title=f"counts agree up to load {part.low:g}, not at {part.high:g}")  # fmt: skip
    sketch(axes[0, 3], list(rows[rows["task"] == "representation"].groupby("rung")["shape"].first()))
    ax, span = axes[1, 3], np.array([1.0, aspects["memory_K1"].max()])
    laws = {f"{solid} ({name})": {"linestyle": dash} for name, solid, dash in
            zip(PREDICTED, ("surface", "volume", "radius"), (":", "--", "-."), strict=True)}  # fmt: skip
    for power, look in zip(PREDICTED.values(), laws.values(), strict=True):
        ax.plot(span, span**power, color=plots.GREY, **look)
    for task, counts in held.items():
        plots.interval(ax, aspects[task], [stats.ratio(counts[rung], counts[0], paired=True) for rung in counts],
                       linestyle="-", label=named(task))  # fmt: skip
    ax.set(yscale="log", xlabel="aspect ratio / the deepest's", ylabel="capacity / the deepest's", ylim=(0.07, 25),
           title="capacity and the cylinder")  # fmt: skip
    plots.ticks(ax, x=[1, 4, 16, 64], y=[0.25, 0.5, 1, 2, 4], log=True)
    plots.legend(ax, laws, loc="upper left", size=9, ncols=2)
    plots.legend(figure)
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


if __name__ == "__main__":
    experiment(study)
