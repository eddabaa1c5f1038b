"""Facts held: limited by parameters, by neurons, or by the width of one layer? And by what when several come at once?

The question is Katta's (2024, "Scaling Laws and Superposition"). Residual MLPs memorise facts about frozen random keys:
K keys at once, one from each of K groups, each with a random label out of four. Only the blocks are trained. Capacity
is the most facts recovered (bits / 2) at any number offered, and is fitted by ln F = c + a ln d + b ln L + e ln(h / d)
over shapes of many budgets; L counts the last block only as far as it is read, so that 2 d h L is the live parameters
N. At equal N, twice the width at a quarter of the depth holds 2^(a - 2b) times as much: a - 2b is -1 if total neurons
limit (a, b = 1, 1), 0 if parameters (2, 1; also over log N), 1 if one layer's width (1, 0), 2 if its square (2, 0).

Rules. For each K a law is rejected if another, or the free fit, has an AICc lower by more than 10 and the interval of
a - 2b excludes its value; supported if it so beats every law of another a - 2b and its own value is inside; else
undecided (`stats.ExponentFit.decided`). `K1_parameters_beats_neurons` and the like are the comparisons of two laws.
`a_minus_2b_rises_with_K`: it is higher at the largest K than at 1. The cells of the largest budgets (more than the
largest / 1.5) are predicted by each law from the rest: error in ln F.

Each shape has the best of several learning rates, found at half the length on two seeds of no result, at loads about
its capacity; what is recovered there is the scale of the loads offered to eight other seeds. Training is the longer the
more there is to hold: at K = 1 each fact is seen 2,200 times. (A first default run had half the steps and coarser loads
at K = 1: deep shapes gained 6 to 10% by twice the steps, and capacity lay between loads. No rule was changed.)

Controls. Twice the steps for two or three shapes of each K: a shape is settled if capacity moves by less than 5%, and
`Kn_steps_suffice` is supported if all of them are. The best load must not be the largest offered, or gain less than 2%
on the one before (`loads_suffice`). Rates bracketed. The same networks with frozen random blocks and a trained readout,
which can hold what d numbers can: the law must come out as width, and not as what the blocks' parameters would give.

A second run with the same --results trains nothing and computes every number and the picture again from what is stored;
the cells with their eight counts are in the JSON too (controls, `cells`). Two cores: --quick 57 s, default 12 minutes
(675 s of training, other work beside), --full about 80 (estimated).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import gmean

from toysup import plots, report, stats
from toysup.features import OnePerGroup
from toysup.measure import features_offered, recovered
from toysup.models import ResidualMLP
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape
from toysup.sweep import Grid, sweep
from toysup.tasks import Memory

QUESTION = (
    "Do parameters, neurons or width limit how many facts a network holds, and does it matter how many come at once?"
)
LABELS = 4
RATES = {False: (0.0075, 0.015, 0.03), True: (0.03, 0.1, 0.3)}  # of trained and of frozen blocks
# (d, L, h / d), and which of them are trained twice as long
SHAPES = {
    1: [(8, 2, 1), (16, 1, 1), (8, 4, 1), (24, 1, 1), (16, 2, 1), (16, 4, 1 / 2), (8, 8, 1), (32, 1, 1), (16, 1, 4),
        (32, 2, 1 / 2), (16, 2, 2), (16, 4, 1), (8, 16, 1), (32, 1, 2), (32, 2, 1), (16, 8, 1), (64, 1, 1),
        (128, 1, 1 / 4)],
    2: [(16, 1, 1), (8, 8, 1), (32, 1, 1), (32, 2, 1 / 2), (16, 4, 1), (8, 16, 1), (16, 4, 2), (16, 8, 1), (64, 1, 1),
        (32, 2, 2), (32, 4, 1), (128, 1, 1 / 2), (64, 2, 1)],
    4: [(16, 2, 1), (32, 1, 1), (32, 2, 1 / 2), (16, 4, 2), (16, 8, 1), (64, 1, 1 / 2), (64, 1, 1), (32, 2, 2),
        (32, 4, 1), (16, 16, 1), (128, 1, 1 / 2), (64, 2, 1)],
    8: [(32, 1, 1 / 2), (32, 1, 1), (32, 2, 1 / 2), (64, 1, 1 / 2), (48, 1, 1), (32, 2, 1), (64, 1, 1), (32, 4, 1),
        (32, 2, 2), (128, 1, 1 / 2), (48, 3, 1), (64, 2, 1), (32, 8, 1)],
}  # fmt: skip
MORE = {1: [(32, 4, 1), (16, 16, 1), (64, 2, 1), (32, 8, 1), (128, 1, 1)]}  # --full
MORE |= {k: [(64, 4, 1), (32, 16, 1), (128, 2, 1), (64, 8, 1)] for k in (2, 4, 8)}
FROZEN = [(16, 1, 1), (16, 4, 1), (32, 1, 1), (32, 2, 2), (24, 2, 1), (32, 4, 1), (64, 1, 1), (16, 16, 1), (8, 2, 1),
          (48, 1, 1), (64, 2, 1), (128, 1, 1 / 2)]  # fmt: skip
LONGER = {1: [(16, 2, 1), (8, 8, 1), (32, 1, 1)], 2: [(16, 4, 1), (32, 1, 1)], 4: [(16, 8, 1), (32, 1, 1)],
          8: [(32, 2, 1), (64, 1, 1 / 2)]}  # fmt: skip
GUESS = {2: 0.64, 4: 0.23, 8: 0.13}  # facts over d^1.7 L^.4, from pilots: where the search starts
LOADS = {1: (0.9, 1.02, 1.15, 1.3, 1.5), 2: (1.5, 2.2, 3.3, 5.0), 4: (1.2, 1.8, 2.7, 4.0), 8: (1.0, 1.5, 2.2)}
FROZEN_LOADS = (0.8, 1.0, 1.3, 1.8, 2.5)  # of what the search held
SEARCH_LOADS = {1: (0.75, 1.0)}  # of the guess; else the guess
STEPS = {2: 4000, 4: 3000, 8: 3000}
SETTLED, FLAT = 1.05, 1.02


class Cell(NamedTuple):
    """One shape at one K, trained, or with frozen blocks and a trained readout."""

    active: int
    shape: Shape
    frozen: bool
    longer: bool

    @property
    def name(self) -> str:
        return f"{'frozen_' if self.frozen else ''}K{self.active}_{self.shape}"

    @property
    def live(self) -> int:
        return self.shape.live_parameters(None if self.frozen else self.active * LABELS)

    @property
    def guess(self) -> float:
        """Facts to offer in the search: above what it is thought to hold."""
        d, depth = self.shape.width, self.shape.depth
        if self.frozen:
            return 2.2 * d / self.active**0.5
        return 1.6 * self.live if self.active == 1 else 2 * GUESS[self.active] * d**1.7 * depth**0.4


def cells_of(run: report.Run) -> list[Cell]:
    """All cells of this mode."""
    most, cells = run.pick(default=99, quick=8, smoke=6), []
    for active in run.pick(default=(1, 2, 4, 8), smoke=(1,)):
        shapes = SHAPES[active][:most] + run.pick(default=[], full=MORE[active])
        cells += [Cell(active, Shape(d, n, round(r * d)), False, (d, n, r) in LONGER[active]) for d, n, r in shapes]
        frozen = FROZEN[: run.pick(default=99, quick=8, smoke=4)]
        cells += [Cell(active, Shape(d, n, round(r * d)), True, False) for d, n, r in frozen]
    return cells


def grid_of(run: report.Run, cell: Cell, facts: float, loads: tuple[float, ...], lr: float, search: bool) -> Grid:
    """A cell's settings: `facts` times each load offered."""
    batch = 128 if cell.active == 1 and not cell.frozen else 256
    seen = run.pick(default=2200, quick=250, smoke=1, full=4400) * facts * loads[len(loads) // 2] / batch
    fixed = run.pick(default=1500 if cell.frozen else STEPS.get(cell.active, 0), quick=600, full=6000)
    steps = round(seen) if batch == 128 else fixed
    steps = max(8, steps // 2 if search else steps) if run.mode != "smoke" else 4
    most = cell.active * max(1, round(max(loads) * facts / cell.active))
    ends = {"unembedding": "trained", "blocks": "frozen"} if cell.frozen else {"unembedding": "coordinates"}
    model = Model(ResidualMLP, shape=cell.shape, row_norm=math.sqrt(cell.shape.width), **ends)
    optimizer = Adam(lr, beta2=0.99, schedule=Cosine())
    setting = Setting(OnePerGroup(most, cell.active), Memory(LABELS), model, optimizer, steps, batch)
    axes = {"features.offered": [load / max(loads) for load in loads]}
    if search:
        return Grid(setting, axes | {"seed": SEARCH_SEEDS})
    steps = [steps, 2 * steps] if cell.longer else [steps]
    return Grid(setting, axes | {"steps": steps, "seed": range(run.pick(default=8, smoke=2))})


def searched_at(cell: Cell) -> tuple[float, ...]:
    """Loads of the search: facts offered, as shares of the guess."""
    return (1.0,) if cell.frozen else SEARCH_LOADS.get(cell.active, (1.0,))


def trained(run: report.Run) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """(one row per network, the rates found, answers of the sweeps)."""
    options = {"results": run.results, "device": run.device, "workers": run.workers}
    cells = {cell.name: cell for cell in cells_of(run)}
    found, grids = [], {}
    for frozen, tried in RATES.items():
        own = {name: cell for name, cell in cells.items() if cell.frozen == frozen}
        searched = {name: grid_of(run, cell, cell.guess, searched_at(cell), tried[0], True)
                    for name, cell in own.items()}  # fmt: skip
        found.append(best_rates(searched, tried, extend=run.pick(default=4, smoke=0), **options))
    rates = pd.concat(found)
    for name, cell in cells.items():
        held = max(float(rates["score"][name]), 8.0 * cell.active)
        loads = FROZEN_LOADS if cell.frozen else LOADS[cell.active]
        grids[name] = grid_of(run, cell, held, loads, float(rates["lr"][name]), False)
    answers = sweep(grids, [recovered, features_offered], **options)
    tables = []
    for name, answer in answers.items():
        cell, shape = cells[name], cells[name].shape
        own = {"name": name, "active": cell.active, "frozen": cell.frozen, "width": shape.width, "layers": shape.depth,
               "hidden": shape.hidden, "ln_ratio": math.log(shape.hidden / shape.width), "budget": cell.live,
               "neurons": shape.neurons, "depth": cell.live / (2 * shape.width * shape.hidden)}  # fmt: skip
        part = answer.table[["seed", "steps", "recovered", "features_offered", "engine"]]
        tables.append(part.assign(**own, long=part["steps"] > part["steps"].min()))
    return pd.concat(tables, ignore_index=True), rates, answers


def capacities(table: pd.DataFrame) -> pd.DataFrame:
    """One row per (cell, seed): the capacity."""
    rows = []
    for _, own in table.groupby("name", sort=False):
        held = stats.capacity(own, load="features_offered").reset_index()
        first = own.iloc[0].drop(["seed", "recovered", "features_offered"])
        rows.append(held.assign(**first))
    return pd.concat(rows, ignore_index=True)


def saturated(own: pd.DataFrame) -> bool:
    """Whether the most is recovered below the largest load, or nearly so."""
    means = own.groupby("features_offered")["recovered"].mean().to_numpy()
    return bool(means[-1] < FLAT * means[:-1].max())


def main(run: report.Run) -> None:
    table, rates, answers = trained(run)
    short = table[~table["long"]]
    held = capacities(short)
    statistics, verdict, fits = {}, {}, {}
    names = (
        "steps_doubled",
        "laws",
        "held_out_errors",
        "h_over_d_exponent",
        "nearest_law",
        "bits_with_biases",
        "cells",
    )
    controls: dict = {name: {} for name in names}
    for (frozen, active), own in held.groupby(["frozen", "active"]):
        key = f"{'frozen_' if frozen else ''}K{active}"
        fit = fits[frozen, active] = stats.fit_exponents(own, others=["ln_ratio"])
        statistics |= {f"{key}_a": fit.a, f"{key}_b": fit.b, f"{key}_a_minus_2b": fit.a_minus_2b}
        controls["laws"][key], controls["nearest_law"][key] = fit.laws.to_dict("index"), fit.nearest
        missed = fit.held_out.pivot_table(index=["width", "depth", "ln_ratio"], columns="law", values="error")
        controls["held_out_errors"][key] = {f"d = {d:.0f}, L = {depth:.2f}, ln h/d = {ratio:.2f}": row.to_dict()
                                            for (d, depth, ratio), row in missed.iterrows()}  # fmt: skip
        controls["h_over_d_exponent"][key] = fit.others["ln_ratio"]
        verdict |= {f"{key}_{law.replace(' / ', '_over_').replace(' ', '_')}": v for law, v in fit.decided().items()}
        if frozen:
            continue
        for law, rival in (("parameters", "neurons"), ("parameters", "width"), ("width", "parameters")):
            verdict[f"{key}_{law}_beats_{rival}"] = "supported" if fit.beats(law, rival) else "undecided"
        means = own.groupby("name")[["recovered", "budget", "neurons"]].mean()
        each = 2 * means["recovered"] / means["budget"]  # log2(4) bits a fact; cells are the sample
        bits = stats.mean(np.log(each)) if (each > 0).all() else stats.UNDEFINED
        statistics[f"{key}_bits_per_live_parameter"] = stats.Interval(*np.exp([bits.value, bits.low, bits.high]))
        both = 2 * means["recovered"] / (means["budget"] + means["neurons"])
        controls["bits_with_biases"][key] = float(gmean(both))
        settled = []
        for name in table.loc[table["long"] & (table["active"] == active), "name"].unique():
            ours = held[held["name"] == name].set_index("seed")["recovered"]
            longer = capacities(table[table["long"] & (table["name"] == name)]).set_index("seed")["recovered"]
            moved = controls["steps_doubled"][name] = stats.ratio(longer, ours, paired=True)
            settled.append(stats.decide(moved, (1 / SETTLED, SETTLED)))
        verdict[f"{key}_steps_suffice"] = stats.every(*settled)
    slopes = {active: fits[False, active].a_minus_2b for active in sorted(set(held["active"]))}
    first, last = slopes[min(slopes)], slopes[max(slopes)]
    moved = stats.Interval(last.value - first.value, last.low - first.high, last.high - first.low)
    statistics["a_minus_2b_last_K_minus_first"] = moved
    verdict["a_minus_2b_rises_with_K"] = stats.decide(moved, (0, math.inf))
    for name, own in short.groupby("name", sort=False):
        mine = held[held["name"] == name]
        about = mine.iloc[0][["width", "layers", "hidden", "budget", "neurons", "steps"]].to_dict()
        controls["cells"][name] = {**about, "capacity": stats.supremum(own, load="features_offered"),
                                   "by_seed": mine["recovered"], "best_load": float(mine["load"].mode()[0]),
                                   "loads": sorted(own["features_offered"].unique()), "saturated": saturated(own),
                                   **rates.loc[name, ["lr", "bracketed"]].to_dict()}  # fmt: skip
    kept = {name: cell for name, cell in controls["cells"].items() if not name.startswith("frozen")}
    verdict["loads_suffice"] = "supported" if all(cell["saturated"] for cell in kept.values()) else "undecided"
    verdict["learning_rate_bracketed"] = (
        "supported" if all(cell["bracketed"] for cell in kept.values()) else "undecided"
    )
    engine = ", ".join(sorted(set(table["engine"])))
    report.write(run, draw(held, fits, verdict), statistics=statistics, verdict=verdict, controls=controls,
                 instances=len(table), steps=int(table["steps"].max()), engine=engine,
                 seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def draw(held: pd.DataFrame, fits: dict, verdict: dict) -> plots.Figure:
    """Capacity against parameters, neurons and width; a - 2b against K; how the largest budgets are predicted."""
    figure, axes = plots.figure(2, 3, width=13, height=4.4)
    own = held[~held["frozen"]]
    colours = plots.category_colours(sorted(own["layers"].unique()))
    actives = sorted(own["active"].unique())
    panels = [(axes[0, 0], actives[0], "budget"), (axes[0, 1], actives[0], "neurons"),
              (axes[1, 0], actives[-1], "budget"), (axes[1, 1], actives[-1], "width")]  # fmt: skip
    labels = {"budget": "live parameters N", "neurons": "hidden neurons h L", "width": "width d"}
    for ax, active, x in panels:
        for _, rows in own[own["active"] == active].groupby("name"):
            at, depth, ratio = rows.iloc[0][[x, "layers", "ln_ratio"]]
            value = stats.mean(rows["recovered"])
            ends = [[value.value - value.low], [value.high - value.value]]
            marker = "o" if abs(ratio) < 0.01 else "^" if ratio > 0 else "v"
            ax.errorbar(at, value.value, yerr=ends, fmt=marker, color=colours[depth], markersize=7, capsize=2)
        few = own.loc[own["active"] == active, [x, "recovered"]]
        ends = np.array([few[x].min(), few[x].max()])
        if x == "budget":
            plots.reference(ax, ends, ends, "")
            ax.text(0.98, 0.05 if active == actives[0] else 0.62, "dashed: 2 bits per live parameter", ha="right",
                    fontsize=9, color=plots.GREY, transform=ax.transAxes)  # fmt: skip
        for scale, axis in ((ax.set_xscale, ax.xaxis), (ax.set_yscale, ax.yaxis)):
            scale("log", base=2)
            axis.set_major_formatter("{x:,.0f}")
        ax.set(xlabel=labels[x], ylabel="facts held (bits / 2)",
               title=f"K = {active}: a = {fits[False, active].a.value:.2f}, b = {fits[False, active].b.value:.2f}"
               if x == "budget" else f"K = {active}, against {labels[x]}")  # fmt: skip
    slopes, errors = axes[0, 2], axes[1, 2]
    dark, pale = plots.category_colours(["trained", "frozen"]).values()
    for (frozen, active), fit in fits.items():
        one, first = fit.a_minus_2b, active == actives[0]
        ends = [[one.value - one.low], [one.high - one.value]]
        look = {"fmt": "s", "color": pale} if frozen else {"fmt": "o", "color": dark}
        label = "frozen blocks, trained readout" if frozen else "trained blocks"
        slopes.errorbar(active * (1.06 if frozen else 1), one.value, yerr=ends, capsize=3, markersize=7, **look,
                        label=label if first else None)  # fmt: skip
    for name, level in (("total neurons", -1), ("parameters", 0), ("width of a layer", 1), ("width squared", 2)):
        plots.reference(slopes, [0.8, 14 if len(actives) > 1 else 1.5], level, name)
    errors_of = {active: fits[False, active].laws["held_out"] for active in actives}
    for law, colour in plots.category_colours(next(iter(errors_of.values())).index).items():
        errors.plot(actives, [errors_of[active][law] for active in actives], marker="o", color=colour, label=law)
    for ax in (slopes, errors):
        ax.set_xscale("log", base=2)
        ax.set_xticks(actives, [str(active) for active in actives])
        ax.set_xlabel("K, facts at once")
    slopes.set(ylabel="a - 2b (95% interval)", title="B / A = 2^(a - 2b) at equal N", ylim=(-1.4, 3.4))
    slopes.legend(loc="upper left", fontsize=9)
    errors.set(ylabel="error in ln F (rms)", title="Largest budgets, predicted")
    errors.set_ylim(0, 2.3)
    errors.legend(fontsize=9, ncols=2, loc="upper right")
    for depth, colour in colours.items():
        axes[0, 0].plot([], [], "o", color=colour, label=f"L = {depth:.0f}")
    for marker, label in (("v", "h < d"), ("o", "h = d"), ("^", "h > d")):
        axes[0, 0].plot([], [], marker, color=plots.GREY, label=label)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=11, fontsize=10, columnspacing=1.2)
    said = [f"{fits[False, active].nearest} at K = {active}" for active in actives]
    figure.suptitle(f"What limits the facts held? Nearest law: {', '.join(said)}", fontsize=14)
    return figure


if __name__ == "__main__":
    report.experiment(main)
