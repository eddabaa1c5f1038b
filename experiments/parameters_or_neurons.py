"""Facts held: limited by parameters, by neurons, or by the width of one layer? And by what when several come at once?

The question is Katta's (2024, "Scaling Laws and Superposition"). Residual MLPs memorise facts about frozen random keys:
K keys at once, one from each of K groups, each with a random label out of four. Only the blocks are trained. Capacity
is the most facts recovered (bits / 2) at any number offered, and is fitted by ln F = c + a ln d + b ln L + e ln(h / d)
over shapes of many budgets; L counts the last block only as far as it is read, so that 2 d h L is the live parameters
N. At equal N, twice the width at a quarter of the depth holds 2^(a - 2b) times as much: a - 2b is -1 if total neurons
limit (a, b = 1, 1), 0 if parameters (2, 1; also over log N), 1 if one layer's width (1, 0), 2 if its square (2, 0).
Frozen random blocks with a trained readout, which can hold what d numbers can, are the control: width, by construction.

A first default run had half the steps and coarser loads at K = 1: deep shapes gained 6 to 10% by twice the steps, and
capacity lay between loads. No rule was changed. Two cores: --quick a minute, default 12 minutes, --full about 80.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from toysup import plots, stats
from toysup.features import OnePerGroup
from toysup.measure import features_offered, recovered
from toysup.models import ResidualMLP
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape
from toysup.study import Best, Claim, Finding, Run, Search, Study, Variant, bracketed, experiment, loads_suffice, moves
from toysup.sweep import Grid
from toysup.tasks import Memory

QUESTION = (
    "Do parameters, neurons or width limit how many facts a network holds, and does it matter how many come at once?"
)
LABELS = 4
# d x L, h where it isn't d: by K, and of networks with frozen blocks; the last few are for --full
SHAPES = {1: "8x2 16x1 8x4 24x1 16x2 16x4h8 8x8 32x1 16x1h64 32x2h16 16x2h32 16x4 8x16 32x1h64 32x2 16x8 64x1 128x1h32",
          2: "16x1 8x8 32x1 32x2h16 16x4 8x16 16x4h32 16x8 64x1 32x2h64 32x4 128x1h64 64x2",
          4: "16x2 32x1 32x2h16 16x4h32 16x8 64x1h32 64x1 32x2h64 32x4 16x16 128x1h64 64x2",
          8: "32x1h16 32x1 32x2h16 64x1h32 48x1 32x2 64x1 32x4 32x2h64 128x1h64 48x3 64x2 32x8"}  # fmt: skip
MORE = {
    1: "32x4 16x16 64x2 32x8 128x1",
    2: "64x4 32x16 128x2 64x8",
    4: "64x4 32x16 128x2 64x8",
    8: "64x4 32x16 128x2 64x8",
}
FROZEN = "16x1 16x4 32x1 32x2h64 24x2 32x4 64x1 16x16 8x2 48x1 64x2 128x1h64"
LONGER = {1: "16x2 8x8 32x1", 2: "16x4 32x1", 4: "16x8 32x1", 8: "32x2 64x1h32"}  # trained twice as long, too
LOADS = {1: (0.9, 1.02, 1.15, 1.3, 1.5), 2: (1.5, 2.2, 3.3, 5.0), 4: (1.2, 1.8, 2.7, 4.0), 8: (1.0, 1.5, 2.2)}
FROZEN_LOADS = (0.8, 1.0, 1.3, 1.8, 2.5)  # of what the search held
STEPS, GUESS = {2: 4000, 4: 3000, 8: 3000}, {2: 0.64, 4: 0.23, 8: 0.13}  # facts over d^1.7 L^.4, from pilots
LAWS = {"neurons": -1, "parameters": 0, "parameters / log": 0, "width": 1, "width squared": 2}
RATES = {False: (0.0075, 0.015, 0.03), True: (0.03, 0.1, 0.3)}
PAIRS = (("parameters", "neurons"), ("parameters", "width"), ("width", "parameters"))


class Cell(NamedTuple):
    """One shape at one K, trained, or with frozen blocks and a trained readout."""

    frozen: bool
    K: int
    shape: Shape

    @property
    def key(self) -> str:
        return f"{'frozen_' * self.frozen}K{self.K}"

    @property
    def budget(self) -> int:
        """Live parameters."""
        return self.shape.live_parameters(None if self.frozen else self.K * LABELS)

    @property
    def depth(self) -> float:
        """Blocks, the last only as far as it is read."""
        return self.budget / (2 * self.shape.width * self.shape.hidden)

    width = property(lambda cell: cell.shape.width)
    layers = property(lambda cell: cell.shape.depth)
    neurons = property(lambda cell: cell.shape.neurons)
    ln_ratio = property(lambda cell: math.log(cell.shape.hidden / cell.shape.width))


def shapes(text: str) -> list[Shape]:
    parts = [one.replace("h", "x").split("x") for one in text.split()]
    return [Shape(int(d), int(depth), int(hidden[0]) if hidden else None) for d, depth, *hidden in parts]


def study(run: Run) -> Study:
    size = run.sizes(dict(Ks=(1, 2, 4, 8), shapes=99, frozen=99, seeds=8, seen=2200, steps=None, extend=4),
                     quick=dict(shapes=8, frozen=6, seeds=3, seen=180, steps=350), full=dict(seen=4400, steps=6000),
                     smoke=dict(Ks=(1,), shapes=6, frozen=4, seeds=2, extend=0))  # fmt: skip

    def grid(cell: Cell, facts: float, loads: tuple[float, ...], length: float = 1.0) -> Grid:
        """A cell's settings: `facts` times each load offered."""
        small = cell.K == 1 and not cell.frozen
        batch = 128 if small else 256
        steps = size.steps or (1500 if cell.frozen else STEPS.get(cell.K, 0))
        steps = round(size.seen * facts * loads[len(loads) // 2] / batch) if small else steps
        steps = max(8, int(steps * length)) if run.mode != "smoke" else 4
        ends = {"unembedding": "trained", "blocks": "frozen"} if cell.frozen else {"unembedding": "coordinates"}
        model = Model(ResidualMLP, shape=cell.shape, row_norm=math.sqrt(cell.width), **ends)
        most = cell.K * max(1, round(max(loads) * facts / cell.K))
        setting = Setting(
            OnePerGroup(most, cell.K), Memory(LABELS), model, Adam(beta2=0.99, schedule=Cosine()), steps, batch
        )
        return Grid(setting, {"features.offered": [load / max(loads) for load in loads]})

    def probe(cell: Cell) -> Grid:
        """Offered in the search: more than it is thought to hold."""
        guess = 1.6 * cell.budget if cell.K == 1 else 2 * GUESS[cell.K] * cell.width**1.7 * cell.layers**0.4
        guess = 2.2 * cell.width / cell.K**0.5 if cell.frozen else guess
        return grid(cell, guess, (0.75, 1.0) if cell.K == 1 and not cell.frozen else (1.0,), 0.5)

    def measured(cell: Cell, best: Best) -> Grid:
        return grid(cell, max(best.score, 8.0 * cell.K), FROZEN_LOADS if cell.frozen else LOADS[cell.K])

    cells = [Cell(frozen, K, one) for K in size.Ks for frozen, text, most in
             ((False, SHAPES[K], size.shapes), (True, FROZEN, size.frozen)) for one in
             shapes(text)[:most] + (shapes(MORE[K]) if run.mode == "full" and not frozen else [])]  # fmt: skip
    trained = {"frozen": [False]}
    laws = [Claim(f"law {name}", f"what is held goes as {name} (a - 2b = {value})", by="key", combine=None,
                  of=lambda law, name=name: law.decided()[name],
                  each=f"{{key}}_{name.replace(' / ', '_over_').replace(' ', '_')}")
            for name, value in LAWS.items()]  # fmt: skip
    beats = [Claim(f"{one} beats {other}", f"what is held is told by {one}, not by {other}", by="key", where=trained,
                   combine=None, of=lambda law, one=one, other=other: law.beats(one, other), otherwise="undecided",
                   each=f"{{key}}_{one}_beats_{other}") for one, other in PAIRS]  # fmt: skip
    return Study(
        cells, measured, measures=[recovered, features_offered], seeds=size.seeds,
        search=Search(probe, lambda cell: RATES[cell.frozen], extend=size.extend),
        variants={"twice the steps": Variant({"steps": 2}, lambda c: not c.frozen and c.shape in shapes(LONGER[c.K]))},
        findings={
            "capacity": Finding(lambda rows: stats.supremum(rows, load="features_offered"), ("key", "cell")),
            "law": Finding(law, "key"),
            "slopes": Finding(lambda law: {"a": law.a, "b": law.b, "a_minus_2b": law.a_minus_2b, "nearest": law.nearest,
                                           "h_over_d": law.others["ln_ratio"]}, "key", "{key}_{column}"),
            "bits": Finding(bits, "key", "{key}_bits_per_live_parameter", trained),
            "bits_with_biases": Finding(lambda rows: bits(rows, biases=True), "key", where=trained),
            "rise": Finding(rise, (), "a_minus_2b_last_K_minus_first"),
        },
        claims=[
            *laws, *beats,
            Claim("a_minus_2b_rises_with_K", "the more come at once, the more width counts", "rise", (0, math.inf)),
            bracketed(where=trained),
            loads_suffice(where=trained),
            moves("twice the steps", longer, (1 / 1.05, 1.05), by=("key", "cell"), name="steps_suffice",
                  each="{key}_steps_suffice", says="twice the steps moves no capacity by more than 5%"),
        ],
        draw=draw, answer=answer,
    )  # fmt: skip


def capacity(rows: pd.DataFrame) -> pd.Series:
    """By seed."""
    return stats.capacity(rows, load="features_offered")["recovered"]


def longer(long: pd.DataFrame, usual: pd.DataFrame) -> stats.Interval:
    return stats.ratio(capacity(long), capacity(usual), paired=True)


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per (cell, seed): its capacity."""
    first = ["key", "cell", "K", "width", "depth", "layers", "neurons", "budget", "ln_ratio"]
    cells = [own for _, own in rows.groupby("cell", sort=False)]
    return pd.concat([capacity(own).reset_index().assign(**own.iloc[0][first]) for own in cells], ignore_index=True)


def law(rows: pd.DataFrame) -> stats.ExponentFit:
    return stats.fit_exponents(shown(rows), others=["ln_ratio"])


def bits(rows: pd.DataFrame, biases: bool = False) -> stats.Interval:
    """log2(4) bits a fact, by live parameter; cells are the sample."""
    means = shown(rows).groupby("cell")[["recovered", "budget", "neurons"]].mean()
    each = 2 * means["recovered"] / (means["budget"] + biases * means["neurons"])
    found = stats.mean(np.log(each)) if (each > 0).all() else stats.UNDEFINED
    return stats.Interval(*np.exp([found.value, found.low, found.high]))


def rise(law: dict) -> stats.Interval:
    """a - 2b at the largest K less at the smallest."""
    slopes = [fit.a_minus_2b for key, fit in law.items() if not key.startswith("frozen")]
    first, last = slopes[0], slopes[-1]
    return stats.Interval(last.value - first.value, last.low - first.high, last.high - first.low)


def answer(law: dict) -> str:
    told = {"neurons": "total neurons", "parameters": "parameters", "parameters / log": "parameters over their log",
            "width": "one layer's width", "width squared": "the square of one layer's width"}  # fmt: skip
    said = [
        f"{told.get(fit.nearest, 'what is not told yet')} with {key[1:]} at once"
        for key, fit in law.items()
        if not key.startswith("frozen")
    ]
    return f"What a network holds of facts is limited most nearly by {', by '.join(said)}."


def draw(rows: pd.DataFrame, law: dict) -> plots.Figure:
    """Capacity against parameters, neurons and width; a - 2b against K; how the largest budgets are predicted."""
    figure, axes = plots.figure(2, 3, width=13, height=4.4)
    held = shown(rows[~rows["frozen"]])
    held["h / d"] = np.select([held["ln_ratio"].abs() < 0.01, held["ln_ratio"] > 0], ["h = d", "h > d"], "h < d")
    colours = plots.category_colours(f"L = {depth:.0f}" for depth in sorted(held["layers"].unique()))
    held["depth"], Ks = [f"L = {depth:.0f}" for depth in held["layers"]], sorted(held["K"].unique())
    labels = {"budget": "live parameters N", "neurons": "hidden neurons h L", "width": "width d"}
    for ax, K, x in zip(
        axes[:, :2].flat, (Ks[0], Ks[0], Ks[-1], Ks[-1]), ("budget", "neurons", "budget", "width"), strict=True
    ):
        own, fit = held[held["K"] == K], law[f"K{K}"]
        marks = {"h = d": "o", "h > d": "^", "h < d": "v"}
        for (depth, form, _), cell in own.groupby(["depth", "h / d", "cell"]):
            plots.interval(ax, cell[x].iloc[0], stats.mean(cell["recovered"]), color=colours[depth], marker=marks[form])
        if x == "budget":
            ends = np.array([own[x].min(), own[x].max()])
            plots.reference(ax, ends, ends, "2 bits per live parameter")
        ax.set(
            xscale="log",
            yscale="log",
            xlabel=labels[x],
            ylabel="facts held (bits / 2)",
            title=f"K = {K}: a = {fit.a.value:.2f}, b = {fit.b.value:.2f}"
            if x == "budget"
            else f"K = {K}, by {labels[x]}",
        )
        plots.ticks(ax, x=2.0 ** np.arange(2, 20), y=2.0 ** np.arange(2, 20), log=True)
    slopes, errors = axes[:, 2]
    kinds = {"trained blocks": "K", "frozen blocks, trained readout": "frozen_K"}
    plots.curves(
        slopes, {kind: {K: law[f"{key}{K}"].a_minus_2b for K in Ks} for kind, key in kinds.items()}, linestyle="none"
    )
    for name, value in (("total neurons", -1), ("parameters", 0), ("width of a layer", 1), ("width squared", 2)):
        plots.level(slopes, value, name)
    plots.curves(
        errors, {name: {K: law[f"K{K}"].laws["held_out"][name] for K in Ks} for name in law[f"K{Ks[0]}"].laws.index}
    )
    for ax in (slopes, errors):
        plots.ticks(ax, x=Ks, log="x")
        ax.set_xlabel("K, facts at once")
        plots.legend(ax, loc="upper left", size=9)
    slopes.set(ylabel="a - 2b (95% interval)", title="wide / deep at equal N = 2^(a - 2b)", ylim=(-1.4, 3.4))
    errors.set(ylabel="error in ln F (rms)", title="Largest budgets, predicted", ylim=(0, 2.3))
    plots.legend(
        figure,
        {name: {"color": c, "marker": "o"} for name, c in colours.items()}
        | {name: {"marker": mark} for name, mark in marks.items()},
    )
    return figure


if __name__ == "__main__":
    experiment(study)
