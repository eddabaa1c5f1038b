"""Model A against Model B: equal parameters, twice the width, a quarter of the depth. What does each one hold?

The question is Katta's (2024, "Scaling Laws and Superposition"). B keeps A's parameters N = 2 d h L and halves its
neurons; so if performance depends on N alone and both learn the same features, B must superpose twice as densely as
data of the same sparsity allow.

Two tasks side by side over a range of loads (features offered / N): representation (sparse features through the width,
U[0,1] at density 0.05) and memory (facts about frozen random keys, K = 1, 2, 4 of them at once). Recovered is
F_eff = sum max(0, R^2), for memory bits / log2 C in facts. Capacity is its supremum over the load.

What each hypothesis predicts for capacity, B over A: total neurons d L 1/2 (hidden neurons h L: see the table),
parameters 1, the width of one layer 2. It is supported if the 95% interval lies within 10% of the prediction on every
task, rejected if some task's interval lies wholly outside.

Shape invariance within 1% and 3% is tested on the held-out loss (TOST, 5%) at every load where something is missed;
where both shapes recover 99% the load is slack, and every bound holds. The contradiction exists if at such a load the
loss and the recovered count both agree within 3%; it is rejected if that is rejected at every one of them.

Each shape is read at the best of several learning rates for each load. Controls: each single rate; whether the best
rate lies inside the range tried (`learning_rate_bracketed`); half the training length at a middle rate, where B over
A may not move by more than 10% (`length_does_not_decide`); untrained networks; cross-validated choice of the load.

Two cores: --quick about 40 seconds, default about 4 minutes.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from toysup import plots, report, stats
from toysup.ensemble import Trained
from toysup.features import OnePerGroup, SparseUniform
from toysup.measure import Estimate, features_offered, held_out_loss, recovered
from toysup.models import ResidualMLP, UntiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape, model_b_of
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity, Memory
from toysup.theory import one_step_r2

QUESTION = "Twice the width and a quarter of the depth at equal parameters: which network holds more features?"
DENSITY, LABELS = 0.05, 4
ACTIVE = {"representation": None, "memory_K1": 1, "memory_K2": 2, "memory_K4": 4}
PREDICTED = {"neurons": 0.5, "parameters": 1.0, "width": 2.0}
WITHIN = 1.1  # a prediction is met within 10%; the three are a factor of 2 apart
COLOURS = dict(zip("AB", plots.category_colours("AB").values(), strict=True))


def untrained(trained: Trained) -> Estimate:
    """Recovered before the first step."""
    return recovered(trained.at(0))


def grid_of(task: str, run: report.Run, shapes: dict[str, Shape]) -> Grid:
    """The task's settings: both shapes, all loads, learning rates (one of them at half the length too) and seeds."""
    batch, optimizer = run.pick(default=512, quick=256, smoke=64), Adam(beta2=0.99, schedule=Cosine())
    steps = run.pick(default=3000, quick=800, smoke=4)
    lrs = run.pick(default=[0.0075, 0.015, 0.03, 0.06], quick=[0.01, 0.02, 0.04], smoke=[0.02])
    if task == "representation":  # its best rates are lower, for both shapes
        lrs = [lr / 1.5 for lr in lrs]
    trainings = [(steps, lr) for lr in lrs] + [(steps // 2, lrs[(len(lrs) - 1) // 2])]
    common = {("steps", "optimizer.lr"): trainings, "seed": range(run.pick(default=8, smoke=2))}
    if task == "representation":
        model = Model(UntiedAutoencoder, width=shapes["A"].width)
        sizes = run.pick(default=[32, 64, 128, 256], smoke=[8, 16])
        axes = {("model.width", "model.depth", "model.hidden"): [(s.width, s.depth, s.hidden) for s in shapes.values()]}
        setting = Setting(SparseUniform(8, DENSITY), Identity(), model, optimizer, steps, batch)
        return Grid(setting, axes | {"features.n_features": sizes} | common)
    active = ACTIVE[task]
    most, low, high = 2.0, -2 if active == 1 else -6, 1 if active == 1 else -1
    loads = 2.0 ** np.linspace(low, high, run.pick(default=6, smoke=2))
    facts = OnePerGroup(active * round(most * shapes["A"].live_parameters(active * LABELS) / active), active)
    setting = Setting(facts, Memory(LABELS), Model(ResidualMLP, shape=shapes["A"], unembedding="coordinates"),
                      optimizer, steps, batch)  # fmt: skip
    axes = {("model.shape", "model.row_norm"): [(shape, math.sqrt(shape.width)) for shape in shapes.values()]}
    return Grid(setting, axes | {"features.offered": loads / most} | common)


def main(run: report.Run) -> None:
    a = run.pick(default=Shape(16, 8), quick=Shape(16, 4))
    reads = {task: active and active * LABELS for task, active in ACTIVE.items()}
    shapes = {task: {"A": a, "B": model_b_of(a, read)} for task, read in reads.items()}
    grids = {task: grid_of(task, run, shapes[task]) for task in ACTIVE}
    measures = [held_out_loss, recovered, features_offered, untrained]
    answers = sweep(grids, measures, results=run.results, device=run.device, workers=run.workers, snapshots=(0,))
    tables = {}
    for task, answer in answers.items():
        model = np.where(answer.table["width"] == a.width, "A", "B")
        load = answer.table["features_offered"] / a.live_parameters(reads[task])
        tables[task] = answer.table.assign(model=model, load=load, loss=answer.table["held_out_loss"])

    steps = max(int(table["steps"].max()) for table in tables.values())
    statistics, verdict = {}, {}
    controls = {name: {} for name in ("learning_rate", "half_the_training", "untrained", "held_out_load", "by_load")}
    controls["best_rate"], bracketed, settled = {}, [], []
    pairs = {task: stats.compare(table[table["steps"] == steps]) for task, table in tables.items()}
    for task, pair in pairs.items():
        ratio = statistics[f"{task}_B_over_A"] = pair.ratio()
        logs = [math.log2(x) if x > 0 else math.nan for x in (ratio.value, ratio.low, ratio.high)]
        statistics[f"{task}_a_minus_2b"] = stats.Interval(*logs)  # F ~ d^a L^b gives B / A = 2^(a - 2b)
        for name, factor in PREDICTED.items():
            verdict[f"{task}_{name}"] = stats.decide(ratio, (factor / WITHIN, factor * WITHIN))
        table = tables[task]
        controls["held_out_load"][task] = pair.ratio("held_out")
        half = table[table["steps"] < steps]
        same = table[(table["steps"] == steps) & (table["lr"] == half["lr"].iloc[0])]
        (a1, b1), (a2, b2) = (stats.compare(rows).capacities for rows in (half, same))
        drift = stats.ratio(b1["recovered"] * a2["recovered"], a1["recovered"] * b2["recovered"], paired=True)
        controls["half_the_training"][task] = drift
        settled.append(stats.decide(drift, (1 / WITHIN, WITHIN)))
        rates = sorted(table["lr"].unique())
        for model, rows, held in zip("AB", (pair.a, pair.b), pair.capacities, strict=True):
            rate = float(rows.loc[rows["load"] == held["load"].mode()[0], "lr"].iloc[0])
            controls["best_rate"][f"{task} {model}"] = {"rate": rate, "lowest": rates[0], "highest": rates[-1]}
            bracketed.append(rates[0] < rate < rates[-1])
        controls["untrained"][task] = table.groupby("model")["untrained"].max().to_dict()
        for lr, rows in table[table["steps"] == steps].groupby("lr"):
            controls["learning_rate"][f"{task} {lr:.3g}"] = stats.compare(rows).ratio()
        for load in pair.loss.index:
            by_load = {"ln_loss": dict(pair.loss.loc[load]), "ln_recovered": dict(pair.count.loc[load])}
            controls["by_load"][f"{task} {load:.3g}"] = by_load
    verdict["learning_rate_bracketed"] = "supported" if all(bracketed) else "undecided"
    verdict["length_does_not_decide"] = stats.every(*settled)
    for name in PREDICTED:
        verdict[name] = stats.every(*(verdict[f"{task}_{name}"] for task in ACTIVE))
    for percent in (1, 3):
        found = [v for pair in pairs.values() for v in pair.equal(percent / 100).values()]
        verdict[f"shape_invariant_{percent}pct"] = stats.every(*found)
    both = [
        stats.every(v, pair.equal(0.03, "count")[at]) for pair in pairs.values() for at, v in pair.equal(0.03).items()
    ]
    verdict["contradiction"] = stats.some(*both)

    note = note_table(pairs, shapes, reads)
    controls["note_table"] = note.to_dict("index")
    print(note.to_string(float_format="{:.3g}".format))
    engine = ", ".join(sorted({engine for table in tables.values() for engine in table["engine"]}))
    report.write(run, draw(tables, pairs, shapes, reads, verdict), statistics=statistics, verdict=verdict,
                 controls=controls, instances=sum(map(len, tables.values())), steps=steps, engine=engine,
                 seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def note_table(pairs: dict, shapes: dict, reads: dict) -> pd.DataFrame:
    """The note's table, measured at capacity, for each task and model, beside what the note assumes of B over A."""
    rows = {}
    for task, pair in pairs.items():
        for (model, shape), held in zip(shapes[task].items(), pair.capacities, strict=True):
            total = held["recovered"].mean()
            rows[f"{task} {model}"] = {
                "layers": shape.depth, "width": shape.width, "neurons": shape.note_neurons,
                "hidden neurons": shape.neurons, "parameters": shape.live_parameters(reads[task]),
                "features": total, "per layer": total / shape.depth,
                "per neuron": total / shape.note_neurons, "n / m": total / shape.width,
            }  # fmt: skip
        rows[f"{task} B/A"] = {k: rows[f"{task} B"][k] / v if v else math.nan for k, v in rows[f"{task} A"].items()}
    assumed = {"layers": 1 / 4, "width": 2, "neurons": 1 / 2, "hidden neurons": 1 / 2, "parameters": 1, "features": 1,
               "per layer": 4, "per neuron": 2, "n / m": 2}  # fmt: skip
    return pd.DataFrame.from_dict(rows | {"the note assumes B/A": assumed}, orient="index")


def draw(tables: dict, pairs: dict, shapes: dict, reads: dict, verdict: dict) -> plots.Figure:
    """Recovered against load for each task, the ratios at capacity, and the loss ratios."""
    figure, axes = plots.figure(2, 3, width=13, height=4)
    for ax, (task, pair) in zip(axes.flat, pairs.items(), strict=False):
        budget = shapes[task]["A"].live_parameters(reads[task])
        loads = pair.count.index.to_numpy()
        plots.band(ax, pd.concat([pair.a, pair.b]), "load", "recovered", "model", colours=COLOURS, log=True)
        plots.reference(ax, loads, loads * budget, "all that is offered")
        if task == "representation":
            for model, shape in shapes[task].items():
                one_step = [n * one_step_r2(round(n), shape.width, DENSITY).r2 for n in loads * budget]
                ax.plot(loads, one_step, "--", color=COLOURS[model], label=f"{model}, one-step decoding (theory)")
                plots.null(ax, loads, shape.width, f"linear (PCA), d = {shape.width}")
        else:
            plots.reference(ax, loads, budget, "2 bits per parameter")
        floor = min(pair.a["recovered"].min(), pair.b["recovered"].min()) / 3 + 1e-3
        before = tables[task].groupby("load")["untrained"].max()
        plots.null(ax, before.index, before.clip(lower=floor), f"untrained: at most {before.max():.2g}")
        ax.set(xlabel="load: features offered / parameters", ylabel="features recovered (F_eff)", yscale="log",
               ylim=(0.85 * floor, None), title=f"{named(task)}: B holds {pair.ratio().value:.2f} x A")  # fmt: skip
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=10)
    ratios, losses = axes[1, 1], axes[1, 2]
    for row, (task, pair) in enumerate(pairs.items()):
        ratio, colour = pair.ratio(), plots.category_colours(pairs)[task]
        ratios.errorbar(ratio.value, -row, xerr=[[ratio.value - ratio.low], [ratio.high - ratio.value]], fmt="o",
                        color=colour, capsize=3)  # fmt: skip
        tight = np.exp(pair.loss.loc[pair.tight(), ["value", "low", "high"]])
        losses.plot(tight.index, tight["value"], marker="o", color=colour, label=named(task))
        losses.fill_between(tight.index, tight["low"], tight["high"], color=colour, alpha=0.2)
    for name, factor in PREDICTED.items():
        ratios.axvspan(factor / WITHIN, factor * WITHIN, color="0.88", zorder=0)
        ratios.annotate(name, (factor, 0.45), ha="center", fontsize=10, color=plots.GREY)
    ratios.set(xscale="log", xlabel="capacity, B over A (95% interval)", xlim=(0.38, 2.7), ylim=(-3.5, 0.9),
               title="Capacity against what each would predict")  # fmt: skip
    ratios.set_yticks([-row for row in range(len(pairs))], [named(task) for task in pairs])
    ratios.set_xticks([0.5, 1, 2], ["1/2", "1", "2"])
    ratios.minorticks_off()
    losses.axhspan(1 / 1.03, 1.03, color="0.8", zorder=0, label="equal within 3%")
    losses.set(xscale="log", yscale="log", xlabel="load: features offered / parameters",
               ylabel="held-out loss, B over A", title="Loss where something is missed")  # fmt: skip
    losses.legend(fontsize=9)
    for ax in axes.flat:
        ax.yaxis.set_minor_formatter(lambda *_: "")
    held = [pair.ratio().value for pair in pairs.values()]
    figure.suptitle(
        f"Equal parameters, half the neurons: B holds {min(held):.2f} to {max(held):.2f} times A's features, by task; "
        f"the contradiction is {verdict['contradiction']}"
    )
    return figure


def named(task: str) -> str:
    """A task's name as the figure says it."""
    return task.replace("_K", ", K=")


if __name__ == "__main__":
    report.experiment(main)
