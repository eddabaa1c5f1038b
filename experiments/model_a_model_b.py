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

Each shape is trained at its own learning rate for each task, searched in steps of 2^.5 at loads above capacity, on
seeds of their own (`learning_rate_bracketed`: it lies between worse ones). Controls: half and twice that rate, and half
the training length, where B over A may not move by more than 10% (`rate_does_not_decide`, `length_does_not_decide`);
untrained networks; a choice of the load by other seeds than are read.

Two cores: --quick about 40 seconds, default about 6 minutes.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle

from toysup import plots, report, stats
from toysup.ensemble import Trained
from toysup.features import OnePerGroup, SparseUniform
from toysup.measure import Estimate, features_offered, held_out_loss, recovered
from toysup.models import ResidualMLP, UntiedAutoencoder
from toysup.search import SEARCH_SEEDS, best_rates
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


def grid_of(task: str, run: report.Run, a: Shape, shape: Shape) -> Grid:
    """The task's settings for one shape at all loads; loads are in units of Model A's parameters."""
    steps, batch = run.pick(default=3000, quick=800, smoke=4), run.pick(default=512, quick=256, smoke=64)
    optimizer = Adam(beta2=0.99, schedule=Cosine())
    if task == "representation":
        model = Model(UntiedAutoencoder, width=shape.width, depth=shape.depth, hidden=shape.hidden)
        setting = Setting(SparseUniform(8, DENSITY), Identity(), model, optimizer, steps, batch)
        return Grid(setting, {"features.n_features": run.pick(default=[32, 64, 128, 256, 512], smoke=[8, 16])})
    active = ACTIVE[task]
    most, low, high = 2.0, -2 if active == 1 else -6, 1 if active == 1 else -1
    loads = 2.0 ** np.linspace(low, high, run.pick(default=6, smoke=2))
    facts = OnePerGroup(active * round(most * a.live_parameters(active * LABELS) / active), active)
    model = Model(ResidualMLP, shape=shape, unembedding="coordinates", row_norm=math.sqrt(shape.width))
    return Grid(Setting(facts, Memory(LABELS), model, optimizer, steps, batch), {"features.offered": loads / most})


def searched(run: report.Run, grids: dict[tuple[str, str], Grid]) -> pd.DataFrame:
    """The learning rate of each (task, model), at its last two loads, where every task has more than it can hold."""
    full = {}
    for (task, model), grid in grids.items():
        (path, values), *_ = grid.axes.items()
        full[f"{task} {model}"] = Grid(grid.setting, {path: values[-2:], "seed": SEARCH_SEEDS})
    rates = 0.0075 * 2 ** (np.arange(5) / 2)
    rates = run.pick(default=rates, quick=np.array([0.01, 0.02, 0.04]), smoke=np.array([0.01, 0.02]))
    return best_rates(full, rates, extend=run.pick(default=3, smoke=0), results=run.results, device=run.device,
                      workers=run.workers)  # fmt: skip


def main(run: report.Run) -> None:
    a = run.pick(default=Shape(16, 8), quick=Shape(16, 4))
    reads = {task: active and active * LABELS for task, active in ACTIVE.items()}
    shapes = {task: {"A": a, "B": model_b_of(a, read)} for task, read in reads.items()}
    plain = {(task, m): grid_of(task, run, a, shape) for task in ACTIVE for m, shape in shapes[task].items()}
    rates = searched(run, plain)
    grids, steps = {}, next(iter(plain.values())).setting.steps
    for (task, model), grid in plain.items():
        lr = float(rates.loc[f"{task} {model}", "lr"])
        trainings = {("steps", "optimizer.lr"): [(steps, lr), (steps, lr / 2), (steps, 2 * lr), (steps // 2, lr)]}
        axes = grid.axes | trainings | {"seed": range(run.pick(default=8, smoke=2))}
        grids[f"{task}_{model}"] = Grid(grid.setting, axes)
    measures = [held_out_loss, recovered, features_offered, untrained]
    answers = sweep(grids, measures, results=run.results, device=run.device, workers=run.workers, snapshots=(0,))
    tables = {}
    for task in ACTIVE:
        parts = []
        for model in "AB":
            own = answers[f"{task}_{model}"].table
            relative = own["lr"] / float(rates.loc[f"{task} {model}", "lr"])
            parts.append(own.assign(model=model, relative=relative.round(3)))
        table = pd.concat(parts, ignore_index=True)
        load = table["features_offered"] / a.live_parameters(reads[task])
        tables[task] = table.assign(load=load, loss=table["held_out_loss"])

    statistics, verdict = {}, {}
    controls = {name: {} for name in ("other_rates", "half_the_training", "untrained", "held_out_load", "by_load")}
    controls["learning_rates"], settled, steady = rates.to_dict("index"), [], []
    chosen = {task: table[(table["steps"] == steps) & (table["relative"] == 1)] for task, table in tables.items()}
    pairs = {task: stats.compare(table) for task, table in chosen.items()}
    for task, pair in pairs.items():
        ratio = statistics[f"{task}_B_over_A"] = pair.ratio()
        logs = [math.log2(x) if x > 0 else math.nan for x in (ratio.value, ratio.low, ratio.high)]
        statistics[f"{task}_a_minus_2b"] = stats.Interval(*logs)  # F ~ d^a L^b gives B / A = 2^(a - 2b)
        for name, factor in PREDICTED.items():
            verdict[f"{task}_{name}"] = stats.decide(ratio, (factor / WITHIN, factor * WITHIN))
        table = tables[task]
        controls["held_out_load"][task] = pair.ratio("held_out")
        drift = controls["half_the_training"][task] = moved(pair, table[table["steps"] < steps])
        settled.append(stats.decide(drift, (1 / WITHIN, WITHIN)))
        for relative in (0.5, 2.0):
            other = table[(table["relative"] == relative) & (table["steps"] == steps)]
            drift = controls["other_rates"][f"{task} x{relative:g}"] = moved(pair, other)
            steady.append(stats.decide(drift, (1 / WITHIN, WITHIN)))
        controls["untrained"][task] = table.groupby("model")["untrained"].max().to_dict()
        for load in pair.loss.index:
            by_load = {"ln_loss": dict(pair.loss.loc[load]), "ln_recovered": dict(pair.count.loc[load])}
            controls["by_load"][f"{task} {load:.3g}"] = by_load
    verdict["learning_rate_bracketed"] = "supported" if rates["bracketed"].all() else "undecided"
    verdict["length_does_not_decide"] = stats.every(*settled)
    verdict["rate_does_not_decide"] = stats.every(*steady)
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
    report.write(run, draw(chosen, pairs, shapes, reads, verdict), statistics=statistics, verdict=verdict,
                 controls=controls, instances=sum(map(len, tables.values())), steps=steps, engine=engine,
                 seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def moved(pair: stats.Comparison, other: pd.DataFrame) -> stats.Interval:
    """How much B over A moves when both are trained otherwise."""
    (a1, b1), (a2, b2) = pair.capacities, stats.compare(other).capacities
    return stats.ratio(b2["recovered"] * a1["recovered"], a2["recovered"] * b1["recovered"], paired=True)


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
    """The note's two models and its step, what each law predicts and what is measured; recovered against load."""
    figure, axes = plots.figure(2, 3, width=13, height=4.2, width_ratios=[1, 1, 1])
    sketch(axes[0, 0], shapes["memory_K1"], reads["memory_K1"])
    ratios, losses = axes[0, 1], axes[0, 2]
    colours = plots.category_colours(pairs)
    for row, (task, pair) in enumerate(pairs.items()):
        ratio = pair.ratio()
        ratios.errorbar(ratio.value, -row, xerr=[[ratio.value - ratio.low], [ratio.high - ratio.value]], fmt="o",
                        color=colours[task], capsize=3)  # fmt: skip
        ratios.annotate(f"{ratio.value:.2f}", (ratio.value, -row), (0, 7), textcoords="offset points", ha="center",
                        fontsize=10)  # fmt: skip
        tight = np.exp(pair.loss.loc[pair.tight(), ["value", "low", "high"]])
        losses.plot(tight.index, tight["value"], marker="o", color=colours[task], label=named(task))
        losses.fill_between(tight.index, tight["low"], tight["high"], color=colours[task], alpha=0.2)
    for name, factor in PREDICTED.items():
        ratios.axvspan(factor / WITHIN, factor * WITHIN, color="0.88", zorder=0)
        ratios.annotate(f"if {name}\ncount", (factor, 0.45), ha="center", fontsize=9.5, color=plots.GREY)
    ratios.set(xscale="log", xlabel="features B holds / features A holds", xlim=(0.38, 2.8), ylim=(-3.5, 1.1),
               title="What B holds, over A (95%)")  # fmt: skip
    ratios.set_yticks([-row for row in range(len(pairs))], [named(task, "\n") for task in pairs])
    ratios.set_xticks([0.5, 1, 2], ["1/2", "1", "2"])
    ratios.minorticks_off()
    losses.axhspan(1 / 1.03, 1.03, color="0.8", zorder=0, label="equal within 3%")
    losses.set(xscale="log", yscale="log", xlabel="load: features offered / parameters",
               ylabel="held-out loss, B over A", title="Loss where something is missed")  # fmt: skip
    losses.legend(fontsize=9)
    for ax, task in zip(axes[1], ("representation", "memory_K1", "memory_K4"), strict=True):
        pair, budget = pairs[task], shapes[task]["A"].live_parameters(reads[task])
        loads = pair.count.index.to_numpy()
        plots.band(ax, pd.concat([pair.a, pair.b]), "load", "recovered", "model", colours=COLOURS, log=True)
        plots.reference(ax, loads, loads * budget, "all that is offered")
        if task == "representation":
            for model, shape in shapes[task].items():
                one_step = [n * one_step_r2(round(n), shape.width, DENSITY).r2 for n in loads * budget]
                ax.plot(loads, one_step, "--", color=COLOURS[model], label=f"{model}, one-step decoding (theory)")
                plots.null(ax, loads, shape.width, f"linear (PCA), d = {shape.width}")
        elif task == "memory_K1":
            ax.axhline(budget, color=plots.GREY, linestyle="-.", label="2 bits per parameter")
        floor = min(rows.groupby("load")["recovered"].mean().min() for rows in (pair.a, pair.b)) / 3 + 1e-3
        before = tables[task].groupby("load")["untrained"].max()
        plots.null(ax, before.index, before.clip(lower=floor), f"untrained: at most {before.max():.2g}")
        ax.set(xlabel="load: features offered / parameters", ylabel="features recovered (F_eff)", yscale="log",
               ylim=(0.85 * floor, None), title=f"{named(task)}: B holds {pair.ratio().value:.2f} x A")  # fmt: skip
    for ax in axes.flat[1:]:
        ax.yaxis.set_minor_formatter(lambda *_: "")
    handles = {label: line for ax in axes[1] for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=10)
    held = [pair.ratio().value for pair in pairs.values()]
    figure.suptitle(
        f"Equal parameters, half the neurons: B holds {min(held):.2f} to {max(held):.2f} times A's features, by task; "
        f"the contradiction is {verdict['contradiction']}"
    )
    return figure


def sketch(ax: plots.Axes, shapes: dict[str, Shape], read: int | None) -> None:
    """The two models as stacks of layers, to scale, with their counts, and the note's step from one to the other."""
    a, b = shapes.values()
    for at, (model, shape) in zip((a.width / 2, 3 * a.width + b.width / 2), shapes.items(), strict=True):
        for layer in range(shape.depth):
            box = Rectangle((at - shape.width / 2, layer), shape.width, 0.8, color=COLOURS[model], alpha=0.75)
            ax.add_patch(box)
        live = shape.live_parameters(read)
        ax.annotate(f"Model {model}: {shape.depth} layers, {shape.width} wide\n{live:,} parameters\n"
                    f"{shape.note_neurons} neurons", (at, -0.5), ha="center", va="top", fontsize=10)  # fmt: skip
    ax.annotate("", (2.6 * a.width, a.depth / 2), (1.4 * a.width, a.depth / 2),
                arrowprops={"arrowstyle": "->", "color": plots.GREY})  # fmt: skip
    ax.annotate("twice as wide,\na quarter\nas deep", (2 * a.width, a.depth / 2 + 0.4), ha="center", fontsize=9.5)
    ax.set(xlim=(-0.5 * a.width, 3.5 * a.width + b.width), ylim=(-0.42 * a.depth, a.depth + 0.2),
           title="The note's step: equal parameters, half the neurons")  # fmt: skip
    ax.set_axis_off()


def named(task: str, between: str = ", ") -> str:
    """A task's name as the figure says it."""
    return task.replace("_K", f"{between}K=")


if __name__ == "__main__":
    report.experiment(main)
