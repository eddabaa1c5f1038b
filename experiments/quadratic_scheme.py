"""Does what a network holds grow as the square of its width, n = m^2 f(1 - S)?

Katta's note (2024) ends with a speculation: to make the number of features a function of parameters, "add a square term
to compressed sensing bounds", n = m^2 f(1 - S). Taken literally, capacity at fixed sparsity has exponent 2 in the
width, whatever the width is used for. Two tasks:

- representation: sparse features U[0,1] through m neurons and back at fixed density p, one-step ReLU autoencoders, tied
  and untied. Superposition (compressed sensing) predicts exponent 1, the scheme 2.
- memory: facts about frozen random keys, K of them at once, in a residual MLP of width d and depth 2, so of about 4 d^2
  parameters. If storage limits it the exponent is 2, if the interference of active facts in the width does, 1.

Recovered is F_eff = sum max(0, R^2), for memory bits / log2 C in facts; capacity is its supremum over the load
(features offered over m / (p ln 1/p), facts offered over live parameters). The exponent is the slope of ln capacity on
ln width, for each seed. Its interval is over seeds and does not hold the misfit of a power law: see the exponents of
the narrower and of the wider half of the widths (`_narrow`, `_wide`). Memory's last layer writes only the coordinates
that are read, a share that falls with d, so that live parameters N grow more slowly than d^2
(`exponent_of_live_parameters`); the exponent in sqrt(N) is reported beside that in d.

Rules: `quadratic_*` is supported if the interval lies in 2 +- 0.1, in d and (`_live`) in sqrt(N). The scheme,
`quadratic`, is if that holds in the width for every task, `linear_representation` if every representation lies in
1 +- 0.1. Each width has a learning rate of its own, found on other seeds (`learning_rate_bracketed`: between worse
ones). `length_does_not_decide`: halving the steps moves the exponent between narrowest and widest by less than 0.1.
Other controls: the exponent at each load; the count at the largest load over that at the next (1: saturated, below:
overloaded); cross-validated choice of the load; untrained networks; f = n / m^2 beside n / m at each width.

Where training is too short: at K = 1 each fact is seen 2,400 times at d = 16 and 330 times at d = 48, and half the
steps move the exponent by 0.12, so that 1.92 is from below. Untrained tied networks have exponent 1 too, at half the
count: an exponent of 1 is no sign of learning, the constant is.

Two cores: --quick about a minute (62 s of CPU time), default 3.5 minutes (7 of CPU time), a
fifth of it the search for learning rates.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from toysup import plots, report, stats
from toysup.ensemble import Trained
from toysup.features import OnePerGroup, SparseUniform
from toysup.measure import Estimate, features_offered, recovered
from toysup.models import ResidualMLP, TiedAutoencoder, UntiedAutoencoder
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity, Memory

QUESTION = "Does what a network can hold grow as the square of its width, as n = m^2 f(1 - S) says?"
LABELS, DEPTH, TOLERANCE = 4, 2, 0.1
RATES = (0.0075, 0.015, 0.03, 0.06)


def untrained(trained: Trained) -> Estimate:
    """Recovered before the first step."""
    return recovered(trained.at(0))


class Case(NamedTuple):
    """One task at fixed sparsity over widths: representation by `build` at `density`, or memory with `active` facts."""

    label: str
    widths: Sequence[int]
    loads: Sequence[float]
    steps: int
    batch: int
    build: type = ResidualMLP
    density: float = 0.0
    active: int = 0

    def unit(self, width: int) -> float:
        """What is offered at load 1: m / (p ln 1/p) features, or as many facts as there are live parameters."""
        if self.active:
            return Shape(width, DEPTH).live_parameters(self.active * LABELS)
        return width / (self.density * math.log(1 / self.density))

    def grid(self, width: int, loads: Sequence[float], seeds: Sequence[int]) -> Grid:
        """One width at these loads."""
        optimizer, unit = Adam(beta2=0.99, schedule=Cosine()), self.unit(width)
        if self.active:
            facts = OnePerGroup(self.active * round(max(self.loads) * unit / self.active), self.active)
            model = Model(ResidualMLP, shape=Shape(width, DEPTH), unembedding="coordinates", row_norm=math.sqrt(width))
            setting = Setting(facts, Memory(LABELS), model, optimizer, self.steps, self.batch)
            return Grid(setting, {"features.offered": [load / max(self.loads) for load in loads], "seed": seeds})
        model, sizes = Model(self.build, width=width), [round(load * unit) for load in loads]
        setting = Setting(SparseUniform(1, self.density), Identity(), model, optimizer, self.steps, self.batch)
        return Grid(setting, {"features.n_features": sizes, "seed": seeds})


def cases_of(run: report.Run) -> dict[str, Case]:
    """What is compared, by the name it has in statistics and verdicts."""
    widths = run.pick(default=(8, 12, 16, 24, 32), quick=(8, 12, 16), smoke=(4, 8))
    deep = run.pick(default=(16, 24, 32, 48), quick=(16, 20, 24), smoke=(16, 18))
    steps, batch = run.pick(default=3000, quick=1000, smoke=2), run.pick(default=256, smoke=16)
    cases = {
        f"representation_{kind}_p{p:g}": Case(f"{kind}, p = {p:g}", widths, (0.6, 1.2, 2.4), steps, batch, build, p)
        for kind, build, p in (
            ("untied", UntiedAutoencoder, 0.1),
            ("tied", TiedAutoencoder, 0.1),
            ("untied", UntiedAutoencoder, 0.02),
        )
    }
    for active, loads in {1: (1.1, 1.3, 1.55, 1.85), 2: (0.1, 0.2, 0.4, 0.8), 4: (0.04, 0.08, 0.16, 0.32)}.items():
        steps = run.pick(default=12000 if active == 1 else 4000, quick=2000, smoke=2)
        cases[f"memory_K{active}"] = Case(f"K = {active}", deep, loads, steps, batch, active=active)
    return run.pick(default=cases, smoke={name: cases[name] for name in ("representation_tied_p0.1", "memory_K4")})


def train(run: report.Run, cases: dict[str, Case]) -> tuple[dict, pd.DataFrame]:
    """The sweep's answer for each (case, width), and the learning rate of each, searched at the second load."""
    seeds = range(run.pick(default=8, quick=4, smoke=2))
    options = {"results": run.results, "device": run.device, "workers": run.workers}
    pairs = [(name, width) for name, case in cases.items() for width in case.widths]
    search = {f"{name}_{width}": cases[name].grid(width, cases[name].loads[1:2], SEARCH_SEEDS) for name, width in pairs}
    rates = best_rates(search, RATES, extend=run.pick(default=3, smoke=0), **options)
    grids = {}
    for name, width in pairs:
        case, lr = cases[name], float(rates.loc[f"{name}_{width}", "lr"])
        lengths = [case.steps, case.steps // 2] if width in (case.widths[0], case.widths[-1]) else [case.steps]
        grid = case.grid(width, case.loads, seeds)
        axes = {**grid.axes, ("steps", "optimizer.lr"): [(steps, lr) for steps in lengths]}
        grids[f"{name}_{width}"] = dataclasses.replace(grid, axes=axes)
    answers = sweep(grids, [recovered, features_offered, untrained], snapshots=(0,), **options)
    return {pair: answers[f"{pair[0]}_{pair[1]}"] for pair in pairs}, rates


def exponent(counts: pd.DataFrame, x: Sequence[float]) -> stats.Interval:
    """The least-squares slope of ln count on ln x, over seeds; `counts` is (seed, x). Undefined where a count is 0."""
    if len(x) < 2 or not (counts > 0).to_numpy().all():
        return stats.UNDEFINED
    return stats.mean(np.polyfit(np.log(x), np.log(counts.T), 1)[0])


def main(run: report.Run) -> None:
    cases = cases_of(run)
    answers, rates = train(run, cases)
    statistics, verdict, held, settled = {}, {}, {}, []
    names = ("by_width", "by_load", "held_out_load", "untrained", "exponent_of_live_parameters", "half_the_steps")
    controls = {name: {} for name in names}
    for name, case in cases.items():
        widths = list(case.widths)
        tables = {width: with_load(answers[name, width].table, case) for width in widths}
        full = {width: table[table["steps"] == case.steps] for width, table in tables.items()}
        best = {width: stats.capacity(table) for width, table in full.items()}
        counts = held[name] = pd.DataFrame({width: found["recovered"] for width, found in best.items()})
        statistics[name] = exponent(counts, widths)
        verdict[f"quadratic_{name}"] = stats.decide(statistics[name], (2 - TOLERANCE, 2 + TOLERANCE))
        for half, some in {"narrow": widths[: (len(widths) + 1) // 2], "wide": widths[len(widths) // 2 :]}.items():
            statistics[f"{name}_{half}"] = exponent(counts[some], some)
        if case.active:
            live = [case.unit(width) for width in widths]
            statistics[f"{name}_live"] = exponent(counts, np.sqrt(live))
            verdict[f"quadratic_{name}_live"] = stats.decide(statistics[f"{name}_live"], (2 - TOLERANCE, 2 + TOLERANCE))
            controls["exponent_of_live_parameters"][name] = np.polyfit(np.log(widths), np.log(live), 1)[0]
        else:
            verdict[f"linear_{name}"] = stats.decide(statistics[name], (1 - TOLERANCE, 1 + TOLERANCE))
        for load in case.loads:
            at = {width: table[table["load"] == load].set_index("seed")["recovered"] for width, table in full.items()}
            controls["by_load"][f"{name} {load:g}"] = exponent(pd.DataFrame(at), widths)
        held_out = pd.DataFrame({width: found["held_out"] for width, found in best.items()})
        controls["held_out_load"][name] = exponent(held_out, widths)
        before = pd.DataFrame({width: table.groupby("seed")["untrained"].max() for width, table in full.items()})
        controls["untrained"][name] = {"exponent": exponent(before, widths), "most": before.max().max()}
        ends = [widths[0], widths[-1]]
        half = {end: stats.capacity(tables[end][tables[end]["steps"] < case.steps])["recovered"] for end in ends}
        moved = controls["half_the_steps"][name] = exponent(counts[ends] / pd.DataFrame(half), ends)
        settled.append(stats.decide(moved, TOLERANCE))
        for width, found in best.items():
            count, load, rate = found["recovered"].mean(), found["load"].mode()[0], rates.loc[f"{name}_{width}"]
            by_load = full[width].groupby("load")["recovered"].mean().to_numpy()
            own = {"capacity": count, "n_over_m": count / width, "n_over_m2": count / width**2, "best_load": load,
                   "largest_load_over_next": by_load[-1] / by_load[-2] if by_load[-2] else math.nan,
                   "rate": rate["lr"], "rate_bracketed": bool(rate["bracketed"])}  # fmt: skip
            if case.active:
                own["each_fact_seen"] = case.steps * case.batch * case.active / (load * case.unit(width))
            controls["by_width"][f"{name} {width}"] = own
    verdict["linear_representation"] = stats.every(*(v for key, v in verdict.items() if key.startswith("linear_")))
    verdict["quadratic"] = stats.every(*(verdict[f"quadratic_{name}"] for name in cases))
    verdict["length_does_not_decide"] = stats.every(*settled)
    verdict["learning_rate_bracketed"] = "supported" if rates["bracketed"].all() else "undecided"
    tables = [answer.table for answer in answers.values()]
    report.write(run, draw(cases, held, statistics, verdict), statistics=statistics, verdict=verdict, controls=controls,
                 instances=sum(map(len, tables)), steps=max(case.steps for case in cases.values()),
                 engine=", ".join(sorted({engine for table in tables for engine in table["engine"]})),
                 seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def with_load(table: pd.DataFrame, case: Case) -> pd.DataFrame:
    """The table with the load that each row was meant to have (what is offered is rounded)."""
    order = table["features_offered"].rank(method="dense").astype(int) - 1
    return table.assign(load=np.array(case.loads)[order])


def draw(cases: dict[str, Case], held: dict[str, pd.DataFrame], statistics: dict, verdict: dict) -> plots.Figure:
    """Capacity against width for both tasks, and the exponents."""
    figure, axes = plots.figure(1, 3, width=13, height=5)
    colours = plots.category_colours(cases)
    for ax, task in zip(axes[0], ("representation", "memory"), strict=False):
        own = {cases[name].label: counts for name, counts in held.items() if name.startswith(task)}
        long = [c.melt(var_name="width", value_name="held").assign(case=label) for label, c in own.items()]
        hues = {case.label: colours[name] for name, case in cases.items() if case.label in own}
        plots.band(ax, pd.concat(long), "width", "held", "case", colours=hues, log=True)
        widths = np.array(max((c.columns for c in own.values()), key=len), dtype=float)
        first = max(c.iloc[:, 0].mean() for c in own.values()) or 1.0
        for power, formula in ((2, "m$^2$ f: slope 2"), (1, "slope 1")):
            plots.reference(ax, widths, 1.3 * first * (widths / widths[0]) ** power, formula)
        if task == "representation":
            plots.null(ax, widths, widths, "linear: n = m")
        ax.set(xlabel="neurons m" if task == "representation" else f"width d (depth {DEPTH})", yscale="log",
               ylabel="capacity: features (F_eff)" if task == "representation" else "capacity: facts",
               title="Representation through m neurons" if task == "representation" else "Memory, K facts at once",
               xticks=widths)  # fmt: skip
        ax.minorticks_off()
        ax.legend(fontsize=10, loc="upper left")
    ax = axes[0, 2]
    marks = {"": ("o", "all widths"), "_narrow": ("<", "narrower half"), "_wide": (">", "wider half"),
             "_live": ("s", "in sqrt(live parameters)")}  # fmt: skip
    for value, name in {1: "linear", 2: "the scheme"}.items():
        ax.axvspan(value - TOLERANCE, value + TOLERANCE, color="0.9", zorder=0)
        ax.annotate(name, (value, 0.35), ha="center", fontsize=10, color=plots.GREY)
    for row, name in enumerate(cases):
        for number, (which, (marker, _)) in enumerate(marks.items()):
            found = statistics.get(name + which, stats.UNDEFINED)
            if np.isfinite([found.low, found.high]).all():
                ax.errorbar(found.value, -row - 0.2 * number, fmt=marker, capsize=3, color=colours[name],
                            xerr=[[found.value - found.low], [found.high - found.value]],
                            markerfacecolor="white" if which else colours[name])  # fmt: skip
    for marker, label in marks.values():
        ax.plot([], [], marker, color=plots.GREY, markerfacecolor=plots.GREY if marker == "o" else "white", label=label)
    ax.set_yticks([-row - 0.3 for row in range(len(cases))], [case.label for case in cases.values()])
    ax.set(xlim=(0.7, 2.3), ylim=(0.1 - len(cases), 0.7), title="Exponents",
           xlabel="exponent of the width (95% interval)")  # fmt: skip
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower right", ncols=4, fontsize=10)
    ends = [[statistics[name].value for name in cases if name.startswith(task)] for task in ("repr", "memory")]
    (a, b), (c, d) = ((f"$^{{{min(own):.2f}}}$", f"$^{{{max(own):.2f}}}$") for own in ends)
    takeaway = f"Features held grow as m{a} to m{b}, facts as d{c} to d{d}"
    figure.suptitle(f"{takeaway}: n = m$^2$ f(1 - S) is {verdict['quadratic']}")
    return figure


if __name__ == "__main__":
    report.experiment(main)
