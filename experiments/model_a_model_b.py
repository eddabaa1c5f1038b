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

Each shape is read at the best of several learning rates for each load. Controls: each single rate, half the training
length, untrained networks, and cross-validated choice of the load.

Two cores: --quick about 1 minute, default about 12, and 1 to 3 minutes more to compile on a first run.
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
    lrs, steps = run.pick(default=[0.015, 0.03], quick=[0.02]), run.pick(default=3000, quick=800, smoke=4)
    if task == "representation":  # its best rates are lower, for both shapes
        lrs = [lr / 3 for lr in lrs]
    trainings = [(steps, lr) for lr in lrs] + [(steps // 2, lrs[-1])]
    common = {("steps", "optimizer.lr"): trainings, "seed": range(run.pick(default=8, smoke=2))}
    if task == "representation":
        model = Model(UntiedAutoencoder, width=shapes["A"].width)
        sizes = run.pick(default=[32, 64, 128, 256, 384], quick=[32, 64, 128, 256], smoke=[8, 16])
        axes = {("model.width", "model.depth", "model.hidden"): [(s.width, s.depth, s.hidden) for s in shapes.values()]}
        setting = Setting(SparseUniform(8, DENSITY), Identity(), model, optimizer, steps, batch)
        return Grid(setting, axes | {"features.n_features": sizes} | common)
    active = ACTIVE[task]
    most, low, high = 2.0, -2 if active == 1 else -6, 1 if active == 1 else -1
    loads = 2.0 ** np.linspace(low, high, run.pick(default=8, quick=6, smoke=2))
    facts = OnePerGroup(active * round(most * shapes["A"].live_parameters(active * LABELS) / active), active)
    setting = Setting(facts, Memory(LABELS), Model(ResidualMLP, shape=shapes["A"], unembedding="coordinates"),
                      optimizer, steps, batch)  # fmt: skip
    axes = {("model.shape", "model.row_norm"): [(shape, math.sqrt(shape.width)) for shape in shapes.values()]}
    return Grid(setting, axes | {"features.offered": loads / most} | common)


def best(table: pd.DataFrame, model: str, score: str = "recovered") -> pd.DataFrame:
    """One model's rows, each load at the learning rate that suits it best."""
    own = table[table["model"] == model]
    return stats.best_setting(own, "lr", ["load"], score, lowest=score == "loss")


def capacities(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Recovered at capacity of A and of B, one row per seed."""
    return {model: stats.capacity(best(table, model)) for model in "AB"}


def b_over_a(table: pd.DataFrame, column: str = "recovered") -> stats.Interval:
    """Recovered at capacity, B over A, paired by seed."""
    held = capacities(table)
    return stats.ratio(held["B"][column], held["A"][column], paired=True)


def main(run: report.Run) -> None:
    a = run.pick(default=Shape(16, 8), quick=Shape(16, 4), smoke=Shape(16, 4))
    reads = {task: active and active * LABELS for task, active in ACTIVE.items()}
    shapes = {task: {"A": a, "B": model_b_of(a, read)} for task, read in reads.items()}
    tables, short, instances, engines = {}, {}, 0, set()
    grids = {task: grid_of(task, run, shapes[task]) for task in ACTIVE}
    measures = [held_out_loss, recovered, features_offered, untrained]
    answers = sweep(grids, measures, results=run.results, device=run.device, workers=run.workers, snapshots=(0,))
    for task, answer in answers.items():
        table = answer.table
        model = np.where(table["width"] == a.width, "A", "B")
        load = table["features_offered"] / a.live_parameters(reads[task])
        full = table["recovered"] >= 0.99 * table["features_offered"]
        table = table.assign(model=model, load=load, loss=table["held_out_loss"], full=full)
        whole = table["steps"] == table["steps"].max()
        tables[task], short[task] = table[whole], table[~whole]
        instances += len(table)
        engines.update(table["engine"])

    statistics, verdict = {}, {}
    controls = {name: {} for name in ("learning_rate", "half_the_training", "untrained", "held_out_load", "by_load")}
    met: dict[str, list] = {name: [] for name in PREDICTED}
    invariant: dict[str, list] = {"1pct": [], "3pct": []}
    both = []
    for task, table in tables.items():
        ratio = b_over_a(table)
        statistics[f"{task}_B_over_A"] = ratio
        statistics[f"{task}_a_minus_2b"] = stats.Interval(*(math.log2(x) if x > 0 else math.nan for x in
                                                            (ratio.value, ratio.low, ratio.high)))  # fmt: skip
        for name, factor in PREDICTED.items():
            met[name].append(stats.decide(ratio, (factor / WITHIN, factor * WITHIN)))
            verdict[f"{task}_{name}"] = met[name][-1]
        loss = stats.equivalence_by_load(best(table, "A", "loss"), best(table, "B", "loss"), slack="full")
        count = stats.equivalence_by_load(best(table, "A"), best(table, "B"), value="recovered")
        for load, row in loss.iterrows():
            controls["by_load"][f"{task} {load:.3g}"] = {**row, "recovered": dict(count.loc[load])}
        for load in loss.index[~loss["slack"].astype(bool)]:
            ours, theirs = (stats.Interval(*t.loc[load, ["value", "low", "high"]]) for t in (loss, count))
            for name, margin in (("1pct", 0.01), ("3pct", 0.03)):
                invariant[name].append(stats.decide(ours, math.log1p(margin)))
            both.append(stats.every(invariant["3pct"][-1], stats.decide(theirs, math.log1p(0.03))))
        controls["held_out_load"][task] = b_over_a(table, "held_out")
        controls["half_the_training"][task] = b_over_a(short[task])
        controls["untrained"][task] = table.groupby("model")["untrained"].max().to_dict()
        for lr in sorted(table["lr"].unique()):
            controls["learning_rate"][f"{task} {lr:.3g}"] = b_over_a(table[table["lr"] == lr])
    verdict |= {f"shape_invariant_{name}": stats.every(*found) for name, found in invariant.items()}
    verdict |= {name: stats.every(*found) for name, found in met.items()} | {"contradiction": stats.some(*both)}

    note = note_table(tables, shapes, reads)
    controls["note_table"] = note.to_dict("index")
    print(note.to_string(float_format="{:.3g}".format))
    figure = draw(tables, shapes, reads, statistics, verdict)
    report.write(run, figure, statistics=statistics, verdict=verdict, controls=controls, instances=instances,
                 steps=int(table["steps"].max()), engine=", ".join(sorted(engines)))  # fmt: skip


def note_table(tables: dict, shapes: dict, reads: dict) -> pd.DataFrame:
    """The note's table, measured: at capacity, for each task and model, beside what the note assumes of B over A."""
    rows = {}
    for task, table in tables.items():
        held = {model: frame["recovered"].mean() for model, frame in capacities(table).items()}
        for model, shape in shapes[task].items():
            total, neurons = held[model], shape.note_neurons
            rows[f"{task} {model}"] = {
                "layers": shape.depth, "width": shape.width, "neurons": neurons, "hidden neurons": shape.neurons,
                "parameters": shape.live_parameters(reads[task]), "features": total, "per layer": total / shape.depth,
                "per neuron": total / neurons, "n / m": total / shape.width,
            }  # fmt: skip
        rows[f"{task} B/A"] = {k: rows[f"{task} B"][k] / v if v else math.nan for k, v in rows[f"{task} A"].items()}
    assumed = {"layers": 1 / 4, "width": 2, "neurons": 1 / 2, "hidden neurons": 1 / 2, "parameters": 1, "features": 1,
               "per layer": 4, "per neuron": 2, "n / m": 2}  # fmt: skip
    return pd.DataFrame.from_dict(rows | {"the note assumes B/A": assumed}, orient="index")


def draw(tables: dict, shapes: dict, reads: dict, statistics: dict, verdict: dict) -> plots.Figure:
    """Recovered against load for each task, the ratios at capacity, and the loss ratios."""
    figure, axes = plots.figure(2, 3, width=13, height=4)
    for ax, (task, table) in zip(axes.flat, tables.items(), strict=False):
        chosen = pd.concat([best(table, model) for model in "AB"])
        budget = shapes[task]["A"].live_parameters(reads[task])
        loads = np.sort(chosen["load"].unique())
        plots.band(ax, chosen, "load", "recovered", "model", colours=COLOURS, log=True)
        plots.reference(ax, loads, loads * budget, "all offered")
        if task == "representation":
            for model, shape in shapes[task].items():
                one_step = [n * one_step_r2(round(n), shape.width, DENSITY).r2 for n in loads * budget]
                ax.plot(loads, one_step, "--", color=COLOURS[model], linewidth=1, label=f"{model}, one-step decoding")
                plots.null(ax, loads, shape.width, f"linear (PCA), d = {shape.width}")
        else:
            plots.reference(ax, loads, budget, "2 bits per parameter")
        floor = chosen["recovered"].clip(lower=1).min() / 4
        before = table.groupby("load")["untrained"].max()
        plots.null(ax, before.index, before.clip(lower=floor), f"untrained: at most {before.max():.2g}")
        ax.set(xlabel="load: features offered / parameters", ylabel="features recovered (F_eff)", yscale="log",
               ylim=(0.85 * floor, None))  # fmt: skip
        ratio = statistics[f"{task}_B_over_A"]
        ax.set_title(f"{task.replace('_', ', ')}: B holds {ratio.value:.2f} x A")
        ax.legend(fontsize=8, loc="lower right")
    met = {name: [task for task in tables if verdict[f"{task}_{name}"] == "supported"] for name in PREDICTED}
    told = [f"{name} on {len(tasks)} of {len(tables)} tasks" for name, tasks in met.items()]
    title = "Capacity follows " + ", ".join(told)
    for row, task in enumerate(tables):
        ratio = statistics[f"{task}_B_over_A"]
        axes[1, 1].errorbar(ratio.value, -row, xerr=[[ratio.value - ratio.low], [ratio.high - ratio.value]], fmt="ok",
                            capsize=3)  # fmt: skip
    for name, factor in PREDICTED.items():
        axes[1, 1].axvline(factor, color=plots.GREY, linestyle="--", linewidth=1)
        axes[1, 1].annotate(name, (factor, 0.45), ha="center", fontsize=9, color=plots.GREY)
    axes[1, 1].set(xscale="log", xlabel="capacity of B over A (95% interval)", xlim=(0.35, 2.9), ylim=(-3.5, 0.9),
                   title=title)  # fmt: skip
    axes[1, 1].set_yticks([-row for row in range(len(tables))], [task.replace("_", ", ") for task in tables])
    axes[1, 1].set_xticks([0.5, 1, 2], ["1/2", "1", "2"])
    axes[1, 1].minorticks_off()
    for task, colour in plots.category_colours(tables).items():
        loss = stats.equivalence_by_load(best(tables[task], "A", "loss"), best(tables[task], "B", "loss"), slack="full")
        tight = loss[~loss["slack"].astype(bool)]
        axes[1, 2].plot(tight.index, np.exp(tight["value"]), marker="o", color=colour, label=task.replace("_", ", "))
        axes[1, 2].fill_between(tight.index, np.exp(tight["low"]), np.exp(tight["high"]), color=colour, alpha=0.2)
    axes[1, 2].axhspan(1 / 1.03, 1.03, color="0.8", zorder=0, label="equal within 3%")
    axes[1, 2].set(xscale="log", yscale="log", xlabel="load: features offered / parameters",
                   ylabel="held-out loss, B over A", title="Loss where something is missed")  # fmt: skip
    axes[1, 2].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    report.experiment(main)
