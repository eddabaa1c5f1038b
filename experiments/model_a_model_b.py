"""Model A against Model B: equal parameters, twice the width, a quarter of the depth. What does each one hold?

The question is Katta's (2024, "Scaling Laws and Superposition"). B keeps A's parameters N = 2 d h L and halves its
neurons; so if performance depends on N alone and both learn the same features, B must superpose twice as densely as
data of the same sparsity allow. Two tasks over a range of loads (features offered / N): representation (sparse features
through the width, U[0,1] at density 0.05) and memory (facts about frozen random keys, K = 1, 2, 4 of them at once).
Capacity is the supremum over the load of what is recovered; B over A is 1/2 if total neurons limit it (d L; hidden
neurons h L: see the finding `note`), 1 if parameters do, 2 if the width of one layer does. Losses and counts are
compared where something is missed; where both shapes recover 99% the load is slack, and every bound holds. Each shape
has its own learning rate by task, searched in steps of 2^.5 at loads above capacity.

Two cores: --quick 40 seconds, default 6 minutes.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle

from toysup import plots, stats
from toysup.features import OnePerGroup, SparseUniform
from toysup.measure import features_offered, held_out_loss, recovered, untrained
from toysup.models import ResidualMLP, UntiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape, model_b_of
from toysup.study import Check, Claim, Finding, Run, Search, Study, Variant, bracketed, experiment
from toysup.sweep import Grid
from toysup.tasks import Identity, Memory
from toysup.theory import one_step_r2

QUESTION = "Twice the width and a quarter of the depth at equal parameters: which network holds more features?"
DENSITY, LABELS = 0.05, 4
TASKS = {"representation": 0, "memory_K1": 1, "memory_K2": 2, "memory_K4": 4}  # K, facts at once
PREDICTED = {"neurons": 0.5, "parameters": 1.0, "width": 2.0}
WITHIN = 1.1  # a prediction is met within 10%; the three are a factor of 2 apart
COLOURS = plots.category_colours("AB")


class Cell(NamedTuple):
    """Model A or B on one task; `unit` is A's live parameters, which are load 1."""

    task: str
    model: str
    shape: Shape
    unit: int

    @property
    def parameters(self) -> int:
        """Live ones."""
        return self.shape.live_parameters(TASKS[self.task] * LABELS or None)


def study(run: Run) -> Study:
    size = run.sizes(
        dict(a=Shape(16, 8), features=(32, 64, 128, 256, 512), loads=6, steps=3000, batch=512, seeds=8,
             rates=tuple(0.0075 * 2 ** (np.arange(5) / 2)), extend=3),
        quick=dict(a=Shape(16, 4), features=(32, 64, 128, 256), loads=5, steps=450, batch=256, seeds=4,
                   rates=(0.01, 0.02, 0.04)),
        smoke=dict(features=(8, 16), loads=2, steps=4, batch=64, seeds=2, rates=(0.01, 0.02), extend=0),
    )  # fmt: skip

    def grid(cell: Cell, last: int = 0) -> Grid:
        """All loads, or the last few."""
        K, shape, training = TASKS[cell.task], cell.shape, (Adam(beta2=0.99, schedule=Cosine()), size.steps, size.batch)
        if not K:
            model = Model(UntiedAutoencoder, width=shape.width, depth=shape.depth, hidden=shape.hidden)
            setting = Setting(SparseUniform(8, DENSITY), Identity(), model, *training)
            return Grid(setting, {"features.n_features": size.features[-last:]})
        loads = 2.0 ** np.linspace(*((-2, 1) if K == 1 else (-6, -1)), size.loads)
        model = Model(ResidualMLP, shape=shape, unembedding="coordinates", row_norm=math.sqrt(shape.width))
        facts = OnePerGroup(K * round(2 * cell.unit / K), K)
        return Grid(Setting(facts, Memory(LABELS), model, *training), {"features.offered": loads[-last:] / 2})

    cells = []
    for task, K in TASKS.items():
        read = K * LABELS or None
        for model, shape in {"A": size.a, "B": model_b_of(size.a, read)}.items():
            cells.append(Cell(task, model, shape, size.a.live_parameters(read)))
    return Study(
        cells, grid, measures=[held_out_loss, recovered, features_offered, untrained], seeds=size.seeds, snapshots=(0,),
        search=Search(lambda cell: grid(cell, 2), size.rates, extend=size.extend),
        variants={"half the rate": Variant({"optimizer.lr": 0.5}), "twice the rate": Variant({"optimizer.lr": 2.0}),
                  "half the steps": Variant({"steps": 0.5})},
        derive=lambda table: table.assign(load=table["features_offered"] / table["unit"], loss=table["held_out_loss"]),
        findings={
            "pair": Finding(lambda rows: stats.compare(rows), "task", kept=False),
            "gain": Finding(gain, "task", "{task}_{column}"),
            "loss": Finding(lambda pair: pair.loss, "task"),
            "count": Finding(lambda pair: pair.count, "task"),
            "held_out_load": Finding(lambda pair: pair.ratio("held_out"), "task"),
            "before": Finding(lambda rows: rows["untrained"].max(), ("task", "model")),
            "note": Finding(note),
        },
        claims=[  # all hold B against A at the rates and lengths they were given, so all rest on every check
            *(Claim(name, f"B holds {factor:g} times as much as A: what is held goes as {name}", "gain.B_over_A",
                    (factor / WITHIN, factor * WITHIN), each=f"{{task}}_{name}") for name, factor in PREDICTED.items()),
            *(Claim(f"shape_invariant_{percent}pct", f"losses agree within {percent}% wherever something is missed",
                    lambda pair, margin=percent / 100: equal(pair, margin)) for percent in (1, 3)),
            Claim("contradiction", "somewhere loss and count both agree within 3% although something is missed", alike),
            bracketed(),
            *(Check(f"{what}_does_not_decide", f"{' or '.join(others)} moves B over A by less than 10%", moved,
                    (1 / WITHIN, WITHIN), by=("task", "variant"), where={"variant": others}, variant=None)
              for what, others in {"length": ["half the steps"], "rate": ["half the rate", "twice the rate"]}.items()),
        ],
        draw=draw, answer=answer,
    )  # fmt: skip


def gain(pair: stats.Comparison) -> dict[str, stats.Interval]:
    """B over A, and what a - 2b is then: F ~ d^a L^b gives B / A = 2^(a - 2b)."""
    ratio = pair.ratio()
    logs = [math.log2(x) if x > 0 else math.nan for x in (ratio.value, ratio.low, ratio.high)]
    return {"B_over_A": ratio, "a_minus_2b": stats.Interval(*logs)}


def moved(rows: pd.DataFrame, pair: stats.Comparison) -> stats.Interval:
    """How much B over A moves when both are trained otherwise."""
    (a1, b1), (a2, b2) = pair.capacities, stats.compare(rows).capacities
    return stats.ratio(b2["recovered"] * a1["recovered"], a2["recovered"] * b1["recovered"], paired=True)


def equal(pair: dict[str, stats.Comparison], margin: float) -> stats.Verdict:
    """Whether the losses agree, on every task and at every load that is not slack."""
    return stats.every(*(verdict for one in pair.values() for verdict in one.equal(margin).values()))


def alike(pair: dict[str, stats.Comparison]) -> stats.Verdict:
    """Whether loss and count agree within 3%, on some task at some load that is not slack."""
    return stats.some(*(stats.every(verdict, one.equal(0.03, "count")[load]) for one in pair.values()
                        for load, verdict in one.equal(0.03).items()))  # fmt: skip


def note(rows: pd.DataFrame, pair: dict[str, stats.Comparison]) -> pd.DataFrame:
    """The note's table, measured at capacity, beside what the note assumes of B over A."""
    found = {}
    for (task, model), own in rows.groupby(["task", "model"], sort=False):
        shape, held = own["shape"].iloc[0], pair[task].capacities["AB".index(model)]["recovered"].mean()
        found[f"{task} {model}"] = {
            "layers": shape.depth, "width": shape.width, "neurons": shape.note_neurons, "hidden neurons": shape.neurons,
            "parameters": own["parameters"].iloc[0], "features": held, "per layer": held / shape.depth,
            "per neuron": held / shape.note_neurons, "n / m": held / shape.width,
        }  # fmt: skip
    table = pd.DataFrame.from_dict(found, orient="index").astype(float)
    for task in pair:
        table.loc[f"{task} B/A"] = table.loc[f"{task} B"] / table.loc[f"{task} A"]
    table.loc["the note assumes B/A"] = (1 / 4, 2, 1 / 2, 1 / 2, 1, 1, 4, 2, 2)
    return table.rename_axis("what")


def answer(gain: dict, judged: dict) -> str:
    times = [found["B_over_A"].value for found in gain.values()]
    features, *facts = ("an unknown number of" if math.isnan(x) else f"{x:.2f}" for x in times)
    told = ": the number of neurons does not tell" if judged["neurons"].verdict == "rejected" else ""
    return f"""Twice as wide and a quarter as deep, of equal parameters and half the neurons, a network holds {features}
        times the features; {", ".join(facts)} times the facts, where 1, 2, 4 come at once{told}."""


def draw(rows: pd.DataFrame, pair: dict, gain: dict) -> plots.Figure:
    """The note's two models, what each law predicts and what is measured; losses; recovered against load."""
    figure, axes = plots.figure(2, 3, width=13, height=4.2)
    named = {task: task.replace("_K", ", K = ") for task in pair}
    (a, b), counted = rows["shape"].unique()[:2], rows[rows["task"] == "memory_K1"].groupby("model")["parameters"]
    sketch(axes[0, 0], a, b, counted.first())
    ratios, losses = axes[0, 1:]
    ratios.set_xscale("log")
    zones = {f"if {name}\ncount": (factor / WITHIN, factor * WITHIN) for name, factor in PREDICTED.items()}
    colours = {named[task]: colour for task, colour in plots.category_colours(pair).items()}
    plots.forest(ratios, {named[task]: found["B_over_A"] for task, found in gain.items()}, zones=zones, colours=colours,
                 form="{:.2f}")  # fmt: skip
    plots.ticks(ratios, x={0.5: "1/2", 1: "1", 2: "2"}, log="x")
    ratios.set(xlabel="features B holds / features A holds", xlim=(0.38, 2.8), title="What B holds, over A (95%)")
    for task, one in pair.items():
        plots.curve(losses, np.exp(one.loss.loc[one.tight(), ["value", "low", "high"]]), color=colours[named[task]],
                    label=named[task])  # fmt: skip
    plots.zone(losses, 1 / 1.03, 1.03, "equal within 3%", color="0.8", legend=True)
    losses.set(xscale="log", yscale="log", xlabel="load: features offered / parameters",
               ylabel="held-out loss, B over A", title="Loss where something is missed")  # fmt: skip
    plots.legend(losses, size=9)
    for ax, task in zip(axes[1], ("representation", "memory_K1", "memory_K4"), strict=True):
        own = rows[rows["task"] == task]
        loads, unit, before = np.unique(own["load"]), own["unit"].iloc[0], own.groupby("load")["untrained"].max()
        plots.band(ax, own, "load", "recovered", "model", colours=COLOURS, log=True)
        plots.reference(ax, loads, loads * unit, "all that is offered")
        if task == "memory_K1":
            plots.level(ax, unit, "2 bits per parameter", linestyle="-.")
        for model, width in {"A": a.width, "B": b.width}.items() if task == "representation" else ():
            one_step = [n * one_step_r2(round(n), width, DENSITY).r2 for n in loads * unit]
            ax.plot(loads, one_step, "--", color=COLOURS[model], label=f"{model}, one-step decoding (theory)")
            plots.null(ax, loads, width, f"linear (PCA), d = {width}")
        floor = own.groupby(["model", "load"])["recovered"].mean().min() / 3 + 1e-3
        plots.null(ax, before.index, before.clip(lower=floor), f"untrained: at most {before.max():.2g}")
        ax.set(xlabel="load: features offered / parameters", ylabel="features recovered", yscale="log",
               ylim=(0.85 * floor, None), title=named[task])  # fmt: skip
        ax.yaxis.set_minor_formatter(lambda *_: "")
    plots.legend(figure)
    return figure


def sketch(ax: plots.Axes, a: Shape, b: Shape, parameters: pd.Series) -> None:
    """The two models as stacks of layers, to scale, with their counts, and the note's step from one to the other."""
    for at, name, shape in ((a.width / 2, "A", a), (3 * a.width + b.width / 2, "B", b)):
        for y in range(shape.depth):
            ax.add_patch(Rectangle((at - shape.width / 2, y), shape.width, 0.8, color=COLOURS[name], alpha=0.75))
        ax.annotate(f"Model {name}: {shape.depth} layers, {shape.width} wide\n{parameters[name]:,} parameters\n"
                    f"{shape.note_neurons} neurons", (at, -0.5), ha="center", va="top", fontsize=10)  # fmt: skip
    ax.annotate("", (2.6 * a.width, a.depth / 2), (1.4 * a.width, a.depth / 2), arrowprops={"arrowstyle": "->"})
    ax.annotate("twice as wide,\na quarter\nas deep", (2 * a.width, a.depth / 2 + 0.4), ha="center", fontsize=9.5)
    ax.set(xlim=(-0.5 * a.width, 3.5 * a.width + b.width), ylim=(-0.42 * a.depth, a.depth + 0.2),
           title="The note's step: equal parameters, half the neurons")  # fmt: skip
    ax.set_axis_off()


if __name__ == "__main__":
    experiment(study)
