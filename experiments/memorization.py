"""Does a toy model store its training examples or its features, and where it changes over, is there double descent?

Henighan et al. 2023, "Superposition, Memorization, and Double Descent": tied ReLU autoencoders with m = 2 on n = 10,000
features of which 10 are active on average (S = 0.999), samples scaled to length 1, T of them seen again and again by
AdamW with weight decay 0.01 and a learning rate that warms up to 1e-3 over 5% of training and falls to 0 as a
cosine. They report that small T gives polygons of examples, large T polygons of features, and that in between, where
neither has dimensions, the test loss has a peak. A second row has n = 1000, S = 0.99: as many active features at less
cost, so more seeds, and the controls.

The dimensionality of examples and of features is that of a typical unit of squared length, `typical_dimensionality`: k
vectors in regular position have 2 / k; vectors without structure have 4 / number. Losses stand beside the best
constant's. Peak and dip (the lowest loss before it) are chosen for each seed by the *other* seeds, so that no maximum
of noise is taken for a peak. Rules, each for the 95% interval over seeds:
  memorises at small T: at T = 5 the training loss is below a tenth of the zero predictor's, unseen loss is no better
      than the best constant's, and examples have more dimensions than features;
  generalises at large T: at the largest T unseen loss is better than the best constant's, training loss is within 1%
      of it, and features have more dimensions than examples;
  double descent: ln unseen loss falls from T = 3 to the dip, rises to the peak, and falls to the largest T;
  neither at the peak: there both typical dimensionalities are below 0.1, ten vectors to a dimension;
  polygons: most seeds have a regular pentagon of examples at T = 5 and a regular polygon of features at the largest T
      (neighbours within 10% of the regular angle).
Controls: endless data, three times the training length (both at n = 1000), the zero predictor and the best constant,
untrained networks, and typical dimensionalities 2 / T of T examples that share the plane evenly.

Deviations: the paper takes 50,000 full-batch steps. Here it is 10,000 steps at n = 1000 and 4000 at n = 10,000, in
batches of at most 1024 and 10,240 examples (a larger T is a multiple of it), so that a step shows every feature about
ten times. A tenth of that does not do: at n = 10,000, T = 102,400 and batches of 1024, neither 40,000 steps at 3e-4
nor 50,000 at 1e-3 made unseen loss better than the best constant's. The loss is summed over features, not averaged;
for Adam that is the same but for its eps.

Two cores: --quick about 40 seconds, default 7 minutes (4 of them at n = 10,000).
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from matplotlib.collections import LineCollection
from matplotlib.ticker import MultipleLocator

from toysup import plots, report, stats
from toysup.ensemble import Trained
from toysup.features import UnitLength
from toysup.geometry import irregularity, typical_dimensionality
from toysup.measure import seen_loss, unseen_loss
from toysup.measure.examples import hidden_vectors
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, Results, sweep
from toysup.tasks import Identity

QUESTION = "Does a toy model store its training examples or its features, and is there double descent between the two?"
ACTIVE, SMALL, REGULAR = 10, 5, 0.1
ENDS = ("unseen_loss", "feature_dimensions")
LOSSES = {"unseen data": "black", "training set": "#cc78bc"}
CLASSES = {"training examples": "#d55e00", "features": "#0173b2"}


def example_dimensions(trained: Trained) -> torch.Tensor:
    """Typical dimensionality of the training examples' hidden vectors."""
    return typical_dimensionality(hidden_vectors(trained))


def feature_dimensions(trained: Trained) -> torch.Tensor:
    """Typical dimensionality of the features."""
    return typical_dimensionality(trained.parameters["W"])


def example_irregularity(trained: Trained) -> np.ndarray:
    """How far the examples' long hidden vectors are from a regular polygon."""
    return np.array([irregularity(V)[1] for V in hidden_vectors(trained)])


def feature_irregularity(trained: Trained) -> np.ndarray:
    """How far the long feature directions are from a regular polygon."""
    return np.array([irregularity(V)[1] for V in trained.parameters["W"]])


def feature_corners(trained: Trained) -> np.ndarray:
    """How many features are longer than half the longest."""
    return np.array([irregularity(V)[0] for V in trained.parameters["W"]])


MEASURES = (seen_loss, unseen_loss, example_dimensions, feature_dimensions, example_irregularity, feature_irregularity,
            feature_corners)  # fmt: skip


def grid_of(n: int, examples: list[float], seeds: int, steps: int, most: int = 1024) -> Grid:
    """Training sets x seeds, in batches of at most `most`; infinity is endless data."""
    batches = {T: (None if T == math.inf else int(T), int(min(T, most))) for T in examples}
    adam = Adam(1e-3, weight_decay=0.01, schedule=Cosine(0.05, 0.0))
    setting = Setting(UnitLength(n, ACTIVE / n), Identity(), Model(TiedAutoencoder, width=2), adam, steps)
    return Grid(setting, {("examples", "batch"): batches, "seed": range(seeds)})


def judged(n: int, answer: Results) -> tuple[dict, dict, dict]:
    """(statistics, verdicts, controls) of one number of features."""
    features = UnitLength(n, ACTIVE / n)
    zero, constant = n * features.second_moment.item(), n * features.variance.item()
    table = answer.table
    wide = {name: table.pivot(index="seed", columns="examples", values=name) for name in (m.__name__ for m in MEASURES)}
    last = table["examples"].max()
    seen, unseen = wide["seen_loss"], wide["unseen_loss"]
    turns = stats.double_descent(unseen)
    peak = int(turns.peak.value)
    ahead = np.log(wide["example_dimensions"] / wide["feature_dimensions"])
    found = {
        "peak_examples": turns.peak,
        "first_over_dip": turns.fall,
        "peak_over_dip": turns.rise,
        "peak_over_end": turns.end,
        "seen_loss_small": stats.mean(seen[SMALL]),
        "unseen_minus_constant_small": stats.mean(unseen[SMALL] - constant),
        "seen_loss_large": stats.mean(seen[last]),
        "unseen_minus_constant_large": stats.mean(unseen[last] - constant),
        "unseen_minus_seen_large": stats.mean(unseen[last] - seen[last]),
        "feature_corners_large": stats.mean(wide["feature_corners"][last]),
    }
    for name in ("example", "feature"):
        for where, T in (("small", SMALL), ("peak", peak), ("large", last)):
            found[f"{name}_dimensions_{where}"] = stats.mean(wide[f"{name}_dimensions"][T])
        regular = wide[f"{name}_irregularity"][SMALL if name == "example" else last] < REGULAR
        found[f"{name}_polygons"] = stats.share(int(regular.sum()), len(regular))
    positive = (0, np.inf)
    verdict = {
        "memorises_at_small_T": stats.every(
            stats.decide(found["seen_loss_small"], (-np.inf, 0.1 * zero)),
            stats.decide(found["unseen_minus_constant_small"], positive),
            stats.decide(stats.mean(ahead[SMALL]), positive),
        ),
        "generalises_at_large_T": stats.every(
            stats.decide(found["unseen_minus_constant_large"], (-np.inf, 0)),
            stats.decide(found["unseen_minus_seen_large"], 0.01),
            stats.decide(stats.mean(-ahead[last]), positive),
        ),
        "double_descent": turns.verdict,
        "neither_at_the_peak": stats.every(
            *(stats.decide(found[f"{name}_dimensions_peak"], (-np.inf, 0.1)) for name in ("example", "feature"))
        ),
        "example_polygons": stats.decide(found["example_polygons"], (0.5, 1)),
        "feature_polygons": stats.decide(found["feature_polygons"], (0.5, 1)),
    }
    controls = {"zero_predictor": zero, "constant_predictor": constant, "untrained_feature_dimensions": 4 / n,
                "examples": list(unseen.columns), "mean_unseen_loss": unseen.mean().tolist(),
                "mean_seen_loss": seen.mean().tolist()}  # fmt: skip
    return found, verdict, controls


def main(run: report.Run) -> None:
    few = run.pick(default=1000, smoke=100)  # features of the cheaper row, which has the controls
    many = 10_000
    sizes = [few, many] if run.mode in ("default", "full") else [few]
    small = run.pick(default=[3, 5, 8, 16, 32, 64, 128, 256, 512, 1024], smoke=[3, 5, 64])
    large = run.pick(default=[4096, 16_384, 102_400], quick=[8192], smoke=[1024])
    steps, some = run.pick(default=10_000, quick=5000, smoke=20), run.pick(default=4, smoke=2)
    grids = {few: grid_of(few, small + large, run.pick(default=10, quick=4, smoke=2), steps)}
    if many in sizes:
        examples = [3, 5, 8, 32, 128, 512, 1024, 2048, 4096, 10_240, 102_400]
        grids[many] = grid_of(many, examples, some, 4000, most=10_240)
    controls_of = {
        "endless": grid_of(few, [math.inf], some, steps),
        "longer": grid_of(few, [T for T in small if T not in (8, 32)], some, 3 * steps),
    }
    named = {f"n{n}": grid for n, grid in grids.items()} | controls_of
    answers = sweep(named, MEASURES, results=run.results, device=run.device,
                    workers=run.workers)  # fmt: skip
    statistics, verdict, controls = {}, {}, {}
    for n in sizes:
        found, decided, controls[f"n{n}"] = judged(n, answers[f"n{n}"])
        statistics |= {f"n{n}_{name}": value for name, value in found.items()}
        verdict |= {f"n{n}_{name}": value for name, value in decided.items()}
    controls["endless_data"] = {name: stats.mean(answers["endless"].table[name]) for name in ENDS}
    found, decided, _ = judged(few, answers["longer"])
    controls["three_times_the_steps"] = {
        name: found[name] for name in ("peak_examples", "peak_over_dip", "peak_over_end")
    }
    controls["three_times_the_steps"] |= {"double_descent": decided["double_descent"]}
    engine = ", ".join(sorted({name for answer in answers.values() for name in answer.table["engine"]}))
    drawing = draw({n: answers[f"n{n}"] for n in sizes}, answers["endless"], statistics)
    report.write(run, drawing, statistics=statistics, verdict=verdict, controls=controls, engine=engine,
                 instances=sum(len(answer.grid) for answer in answers.values()),
                 steps=max(grid.setting.steps for grid in named.values()),
                 seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def draw(answers: dict[int, Results], endless: Results, statistics: dict) -> plots.Figure:
    """Losses and dimensionalities against T for each n; below, one seed's features and examples in the plane."""
    figure = plots.Figure(figsize=(13, 4.1 * len(answers) + 5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[4.1 * len(answers), 5])
    rows = above.subplots(len(answers), 2, squeeze=False)
    for row, (n, answer) in zip(rows, answers.items(), strict=True):
        table, constant = answer.table, n * UnitLength(n, ACTIVE / n).variance.item()
        examples = np.sort(table["examples"].unique())
        losses = pd.concat([
            table.assign(loss=table[f"{kind}_loss"] - constant, of=label)
            for kind, label in (("unseen", "unseen data"), ("seen", "training set"))
        ])  # fmt: skip
        plots.band(row[0], losses, "examples", "loss", "of", colours=LOSSES)
        plots.reference(row[0], examples, 0.0, "best constant")
        if n == endless.grid.setting.features.n_features:
            plots.reference(row[0], examples, endless.table["unseen_loss"].mean() - constant, "endless data")
        peak = statistics[f"n{n}_peak_examples"]
        row[0].axvspan(peak.low, peak.high, color="0.9", zorder=0)
        row[0].set_yscale("symlog", linthresh=1e-3, linscale=0.6)
        row[0].set(title=f"n = {n:,}: loss", ylabel="loss minus the best constant's")
        sizes = pd.concat([
            table.assign(dimensions=np.log10(table[f"{kind}_dimensions"]), of=label)
            for kind, label in zip(("example", "feature"), CLASSES, strict=True)
        ])  # fmt: skip
        plots.band(row[1], sizes, "examples", "dimensions", "of", colours=CLASSES)
        few = examples[examples <= 64]
        even = {"color": plots.GREY, "linewidth": 1.5, "zorder": 1, "label": "2 / T: all share the plane evenly"}
        row[1].plot(few, np.log10(2 / few), "--", **even)
        plots.null(row[1], examples, math.log10(4 / n), "untrained features")
        row[1].yaxis.set_major_locator(MultipleLocator(1))
        row[1].yaxis.set_major_formatter(lambda y, _: f"{10**y:g}")
        row[1].set(title=f"n = {n:,}: dimensions of a typical vector", ylabel="dimensionality (geometric mean)")
        for ax in row:
            ax.set(xscale="log", xlabel="training examples T")
            ax.legend()
    n, answer = list(answers.items())[-1]
    table = answer.table
    every = np.sort(table["examples"].unique())
    shown = every[np.unique(np.linspace(0, len(every) - 1, 6).round().astype(int))]
    panels = below.subplots(2, len(shown), squeeze=False)
    for column, T in zip(panels.T, shown, strict=True):
        trained = network(answer, int(table.index[(table["examples"] == T) & (table["seed"] == 0)][0]))
        for ax, (label, colour), V in zip(
            column, CLASSES.items(), (hidden_vectors(trained)[0], trained.parameters["W"][0]), strict=True
        ):
            vectors(ax, V.numpy(), colour)
            ax.set_title(f"{T:,.0f} {label}" if label == "training examples" else f"{n:,} features", fontsize=10)
    peaks = [(n, statistics[f"n{n}_peak_over_dip"].value, statistics[f"n{n}_peak_examples"].value) for n in answers]
    told = ", ".join(f"{factor:.2g} times the dip at T = {T:,.0f} (n = {n:,})" for n, factor, T in peaks)
    figure.suptitle(f"Between stored examples and stored features the unseen loss peaks:\n{told}", fontsize=14)
    return figure


def network(answer: Results, row: int) -> Trained:
    """One row's network, alone."""
    return answer.trained(rows=[row])


def vectors(ax: plots.Axes, V: np.ndarray, colour: str) -> None:
    """Vectors in the plane as lines from the origin, scaled to the longest."""
    reach = np.linalg.norm(V, axis=1).max()
    lines = [[(0, 0), tuple(v)] for v in V[np.argsort(-np.linalg.norm(V, axis=1))[:2000]]]
    ax.add_collection(LineCollection(lines, colors=colour, linewidths=0.8, alpha=0.5, rasterized=True))
    ax.plot(V[:, 0], V[:, 1], ".", color=colour, markersize=3, rasterized=True)
    ax.set(xlim=(-1.1 * reach, 1.1 * reach), ylim=(-1.1 * reach, 1.1 * reach), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


if __name__ == "__main__":
    report.experiment(main)
