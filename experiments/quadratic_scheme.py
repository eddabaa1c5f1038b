"""Does what a network holds grow as the square of its width, n = m^2 f(1 - S)?

Katta's note (2024) ends with a speculation: to make the number of features a function of parameters, "add a square term
to compressed sensing bounds", n = m^2 f(1 - S): at fixed sparsity capacity has exponent 2 in the width, whatever that
is used for. Two tasks: sparse features through m neurons and back, one ReLU step (compressed sensing predicts 1), and
facts about frozen random keys, K at once, in a residual MLP of width d and depth 2, so of about 4 d^2 parameters (2 if
storage limits it, 1 if the interference of active facts does). Intervals are over seeds, not over the misfit of a power
law: hence either half of the widths. Live parameters N grow more slowly than d^2, as the last layer writes only what is
read: hence exponents in sqrt(N). At K = 1 a fact is seen 2,400 times at d = 16, 330 times at d = 48: its exponent is
from below. Untrained tied networks have exponent 1 too, at half the count.

Two cores: --quick a minute, default 3.5 minutes.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from toysup import plots, stats
from toysup.features import OnePerGroup, SparseUniform
from toysup.measure import features_offered, recovered, untrained
from toysup.models import ResidualMLP, TiedAutoencoder, UntiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape
from toysup.study import Claim, Finding, Run, Search, Study, Variant, bracketed, experiment, moves
from toysup.sweep import Axis, Grid
from toysup.tasks import Identity, Memory

QUESTION = "Does what a network can hold grow as the square of its width, as n = m^2 f(1 - S) says?"
TASKS = (("untied", 0.1, 0), ("tied", 0.1, 0), ("untied", 0.02, 0), ("MLP", 0, 1), ("MLP", 0, 2), ("MLP", 0, 4))
BUILDS = {"untied": UntiedAutoencoder, "tied": TiedAutoencoder}
LABELS, DEPTH, BATCH = 4, 2, 256
LOADS = {0: (0.6, 1.2, 2.4), 1: (1.1, 1.3, 1.55, 1.85), 2: (0.1, 0.2, 0.4, 0.8), 4: (0.04, 0.08, 0.16, 0.32)}  # by K
LINEAR, SQUARE = (0.9, 1.1), (1.9, 2.1)  # where an exponent must lie
SERIES = {"width": "all widths", "narrow": "narrower half", "wide": "wider half", "live": "in sqrt(live parameters)"}


class Cell(NamedTuple):
    """One width: features of one density through an autoencoder, or K facts at once in a residual MLP."""

    kind: str
    density: float
    K: int
    width: int

    @property
    def task(self) -> str:
        return f"memory_K{self.K}" if self.K else f"representation_{self.kind}_p{self.density:g}"

    @property
    def unit(self) -> float:
        """What is offered at load 1: m / (p ln 1/p) features, or as many facts as there are live parameters."""
        live = Shape(self.width, DEPTH).live_parameters(self.K * LABELS or None)
        return live if self.K else self.width / (self.density * math.log(1 / self.density))


def study(run: Run) -> Study:
    size = run.sizes(
        dict(tasks=TASKS, m=(8, 12, 16, 24, 32), d=(16, 24, 32, 48), steps=(3000, 12000, 4000), seeds=8),
        quick=dict(m=(8, 12, 16), d=(16, 20, 24), steps=(1000, 2000, 2000), seeds=4),
        smoke=dict(tasks=(TASKS[1], TASKS[5]), m=(4, 8), d=(16, 18), steps=(2, 2, 2), seeds=2),
    )

    def grid(cell: Cell, part: slice = slice(None)) -> Grid:
        """One width at these loads."""
        K, loads = cell.K, LOADS[cell.K]
        if K:
            model = Model(ResidualMLP, shape=Shape(cell.width, DEPTH), unembedding="coordinates",
                          row_norm=math.sqrt(cell.width))  # fmt: skip
            asked = OnePerGroup(K * round(loads[-1] * cell.unit / K), K), Memory(LABELS), model
            axis = Axis("load", "features.offered", {load: load / loads[-1] for load in loads[part]})
        else:
            asked = SparseUniform(1, cell.density), Identity(), Model(BUILDS[cell.kind], width=cell.width)
            axis = Axis("load", "features.n_features", {load: round(load * cell.unit) for load in loads[part]})
        return Grid(Setting(*asked, Adam(beta2=0.99, schedule=Cosine()), size.steps[min(K, 2)], BATCH), [axis])

    ends = {size.m[0], size.m[-1]}, {size.d[0], size.d[-1]}
    facts, lengths = {"K": (1, 2, 4)}, "length_does_not_decide"
    alone, every = ({"checks": ["learning_rate_bracketed", name]} for name in (f"representation_{lengths}", lengths))
    steady = "half the steps move no exponent between narrowest and widest by 0.1"
    return Study(
        [Cell(*task, width) for task in size.tasks for width in (size.d if task[2] else size.m)], grid,
        measures=[recovered, features_offered, untrained], seeds=size.seeds, snapshots=(0,),
        search=Search(lambda cell: grid(cell, slice(1, 2)), (0.0075, 0.015, 0.03, 0.06),
                      extend=0 if run.mode == "smoke" else 3),
        variants={"half the steps": Variant({"steps": 0.5}, lambda cell: cell.width in ends[cell.K > 0])},
        findings={
            "held": Finding(lambda rows: stats.capacities(rows, "width"), "task"),
            "exponents": Finding(exponents, "task", lambda task, column: task + f"_{column}" * (column != "width")),
            "widths": Finding(one_width, ("task", "width")),
        },
        claims=[
            Claim("quadratic", "what is held grows as the square of the width, in every task", "exponents.width",
                  SQUARE, each="quadratic_{task}", **every),
            Claim("quadratic in sqrt(N)", "facts held grow as the live parameters", "exponents.live", SQUARE,
                  where=facts, combine=None, each="quadratic_{task}_live", **every),
            Claim("linear_representation", "features held in one layer grow as its width", "exponents.width", LINEAR,
                  where={"K": 0}, each="linear_{task}", **alone),
            bracketed(),
            moves("half the steps", longer, 0.1, by="task", name=lengths, says=steady),
            moves("half the steps", longer, 0.1, by="task", where={"K": 0}, name=f"representation_{lengths}",
                  says=f"{steady}, of features in one layer"),
        ],
        draw=draw, answer=answer,
    )  # fmt: skip


def longer(half: pd.DataFrame, full: pd.DataFrame) -> stats.Interval:
    return stats.exponent(stats.capacities(full, "width") / stats.capacities(half, "width"))


def exponents(rows: pd.DataFrame, held: pd.DataFrame) -> dict[str, Any]:
    """Of all widths, of either half, in live parameters; controls: at held-out and at fixed loads, untrained."""
    half, live = held.shape[1] / 2, rows.groupby("width")["unit"].first()
    before = rows.pivot_table(index="seed", columns="width", values="untrained", aggfunc="max")
    controls = {"held_out": stats.capacities(rows, "width", "held_out"), "untrained": before}
    controls |= {f"load {load:g}": stats.capacities(own, "width") for load, own in rows.groupby("load")}
    found = {"width": held, "narrow": held.iloc[:, : math.ceil(half)], "wide": held.iloc[:, int(half) :]}
    found = {name: stats.exponent(own) for name, own in found.items()}
    if rows["K"].any():
        found |= {"live": stats.exponent(held, np.sqrt(live)), "of N": stats.exponent(live.to_frame().T).value}
    return found | {"controls": {name: stats.exponent(own) for name, own in controls.items()}}


def one_width(rows: pd.DataFrame, width: int) -> dict[str, float]:
    held, counts = stats.capacity(rows)["recovered"].mean(), rows.groupby("load")["recovered"].mean()
    best, (*_, next_load, last), one = counts.idxmax(), counts, rows.iloc[0]
    return {"held": held, "n_over_m": held / width, "n_over_m2": held / width**2, "best_load": best,
            "largest_load_over_next": last / next_load if next_load else math.nan, "untrained": rows["untrained"].max(),
            "each_fact_seen": one["steps"] * BATCH * one["K"] / (best * one["unit"])}  # fmt: skip


def answer(exponents: dict, judged: dict) -> str:
    spans = []
    for kind in ("representation", "memory"):
        own = sorted(found["width"].value for task, found in exponents.items() if task.startswith(kind))
        spans.append(f"its power {own[0]:.2f} to {own[-1]:.2f}" if np.isfinite(own).all() else "a power not told yet")
    does = {"supported": "grows", "rejected": "does not grow"}.get(judged["quadratic"].verdict, "may or may not grow")
    features, facts = spans
    return f"What a network holds {does} as the square of its width: features as {features}, facts as {facts}."


def draw(held: dict, exponents: dict) -> plots.Figure:
    """Capacity against width for both tasks, and the exponents."""
    figure, axes = plots.figure(1, 3, width=13, height=5)
    names = {t: t.replace("representation_", "").replace("_p", ", p = ").replace("memory_K", "K = ") for t in held}
    for ax, kind in zip(axes[0], ("representation", "memory"), strict=False):
        own = {names[task]: {width: stats.mean(counts[width]) for width in counts} for task, counts in held.items()
               if task.startswith(kind)}  # fmt: skip
        plots.curves(ax, own)
        widths = np.array(list(next(iter(own.values()))), dtype=float)
        first = 1.3 * max(found[widths[0]].value for found in own.values()) or 1.0
        for power, label in ((2, "m$^2$ f: slope 2"), (1, "slope 1")):
            plots.reference(ax, widths, first * (widths / widths[0]) ** power, label)
        if kind == "memory":
            ax.set(xlabel=f"width d (depth {DEPTH})", ylabel="facts held", title="Facts, K at once")
        else:
            plots.null(ax, widths, widths, "linear: n = m")
            ax.set(xlabel="neurons m", ylabel="features held", title="Sparse features through m neurons")
        ax.set_yscale("log")
        plots.ticks(ax, x=widths, log="x")
        plots.legend(ax, loc="upper left")
    rows = {names[task]: {SERIES[name]: own for name, own in found.items() if name in SERIES}
            for task, found in exponents.items()}  # fmt: skip
    plots.forest(axes[0, 2], rows, zones={"linear": LINEAR, "the scheme": SQUARE})
    axes[0, 2].set(xlim=(0.7, 2.3), title="Exponents", xlabel="exponent of the width (95% interval)")
    plots.legend(figure)
    return figure


if __name__ == "__main__":
    experiment(study)
