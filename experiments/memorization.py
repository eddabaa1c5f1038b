"""Does a toy model store its training examples or its features, and where it changes over, is there double descent?

Henighan et al. 2023, "Superposition, Memorization, and Double Descent": tied ReLU autoencoders, m = 2, n = 10,000, 10
features active on average, samples of length 1, T of them seen again and again by AdamW. They report polygons of
examples at small T, of features at large T, and in between, where neither has dimensions, a peak of the unseen loss. A
second row, n = 1000, is cheaper: more seeds, controls. k vectors in regular position have a typical dimensionality of
2 / k, vectors without structure 4 / number. Peak and dip are chosen for each seed by the others (`double_descent`).

Deviations: the paper takes 50,000 full-batch steps; here 10,000 and (n = 10,000) 4000, in batches of at most 1024 and
10,240, so that a step shows a feature ten times; a tenth of that does not do (T = 102,400 in batches of 1024 never got
below the best constant's loss). Losses are summed over features, for Adam the same as averaged but for its eps.
Two cores: --quick about 40 s, default 7 minutes.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from toysup import plots, stats
from toysup.ensemble import Trained
from toysup.features import UnitLength
from toysup.geometry import irregularity, typical_dimensionality
from toysup.measure import seen_loss, unseen_loss
from toysup.measure.examples import hidden_vectors
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.study import Check, Claim, Finding, Run, Study, Variant, experiment
from toysup.sweep import Grid
from toysup.tasks import Identity

QUESTION = "Does a toy model store its training examples or its features, and is there double descent between the two?"
ACTIVE, SMALL, REGULAR = 10, 5, 0.1  # REGULAR: of the angle between a polygon's neighbours
SETS = {1000: [3, 5, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16_384, 102_400],
        10_000: [3, 5, 8, 32, 128, 512, 1024, 2048, 4096, 10_240, 102_400]}  # fmt: skip
LONGER = [3, 5, 16, 64, 128, 256, 512, 1024]  # trained three times as long, too
LOSSES = {"unseen data": "black", "training set": "#cc78bc"}
KINDS = {"training examples": "#d55e00", "features": "#0173b2"}
MORE, LESS, FEW = (0, math.inf), (-math.inf, 0), (-math.inf, 0.1)
NUMBERS = ["seen_loss", "unseen_minus_constant", "unseen_minus_seen", "examples_ahead", "example_dimensions",
           "feature_dimensions", "feature_corners"]  # fmt: skip


class Cell(NamedTuple):
    n: int


def structure(trained: Trained) -> dict[str, torch.Tensor]:
    """Typical dimensionality of examples and features, how many are long, and how far those are from a polygon."""
    found = {}
    for name, V in (("example", hidden_vectors(trained)), ("feature", trained.parameters["W"])):
        corners, off = torch.tensor([irregularity(own) for own in V], dtype=torch.float64).T
        found[f"{name}_dimensions"] = typical_dimensionality(V)
        found |= {f"{name}_corners": corners, f"{name}_regular": off < REGULAR}
    return found


def study(run: Run) -> Study:
    size = run.sizes(dict(sets=SETS, steps=10_000, seeds=10, some=4, longer=LONGER),
                     quick=dict(sets={1000: [*SETS[1000][:10], 8192]}, steps=5000, seeds=3),
                     smoke=dict(sets={100: [3, 5, 64, 1024]}, steps=20, seeds=2, some=2, longer=[3, 5, 64])
                     )  # fmt: skip
    first, losses = min(size.sets), ["unseen_loss", "seen_loss"]

    def grid(cell: Cell, examples: list[float] | None = None, length: int = 1) -> Grid:
        """Training sets (infinity is endless data) x seeds."""
        most, steps, seeds = (1024, size.steps, size.seeds) if cell.n == first else (10_240, 4000, size.some)
        sets = {T: (None if T == math.inf else T, min(T, most)) for T in examples or size.sets[cell.n]}
        adam, model = Adam(1e-3, weight_decay=0.01, schedule=Cosine(0.05, 0.0)), Model(TiedAutoencoder, width=2)
        setting = Setting(UnitLength(cell.n, ACTIVE / cell.n), Identity(), model, adam, length * steps)
        return Grid(setting, {("examples", "batch"): sets, "seed": range(size.some if examples else seeds)})

    def claim(name: str, says: str, of: str, inside=None, checks=()) -> Claim:
        """Longer training is only checked for a dip and a peak, of which most claims say nothing."""
        return Claim(name, says, of, inside, combine=None, each=f"n{{n}}_{name}", checks=checks)

    return Study(
        [Cell(n) for n in size.sets], grid, measures=[seen_loss, unseen_loss, structure], draw=draw, answer=answer,
        variants={"endless": Variant(lambda _: grid(Cell(first), [math.inf]), lambda cell: cell.n == first),
                  "longer": Variant(lambda _: grid(Cell(first), size.longer, 3), lambda cell: cell.n == first)},
        findings={"turns": Finding(turns, "n"), "found": Finding(found, "n", "n{n}_{column}"),
                  "mean_losses": Finding(lambda rows: rows.groupby("examples")[losses].mean(), "n"),
                  "endless_data": Finding(lambda rows: {name: stats.mean(rows[name]) for name in
                                                        ("unseen_loss", "feature_dimensions")}, variant="endless"),
                  "three_times_the_steps": Finding(turns, variant="longer")},
        claims=[
            claim("memorises_at_small_T", "five examples are stored: the loss on them is below a tenth of the zero "
                  "predictor's, on unseen data no better than the best constant's; they have more dimensions than "
                  "features", "found", {"seen_loss_small": lambda found: (-math.inf, 0.1 * found["zero_predictor"]),
                                        "unseen_minus_constant_small": MORE, "examples_ahead_small": MORE}),
            claim("generalises_at_large_T", "with most examples unseen loss is below the best constant's, within 0.01 "
                  "of seen loss, and features have more dimensions than examples", "found", {
                  "unseen_minus_constant_large": LESS, "unseen_minus_seen_large": 0.01, "examples_ahead_large": LESS}),
            claim("double_descent", "unseen loss falls to a dip, rises to a peak and falls", "turns.verdict",
                  checks=["length_does_not_decide"]),
            claim("neither_at_the_peak", "at the peak ten examples share a dimension, and ten features",
                  "found", {"example_dimensions_peak": FEW, "feature_dimensions_peak": FEW},
                  checks=["length_does_not_decide"]),
            claim("example_polygons", "five examples form a regular pentagon", "found.example_polygons", (0.5, 1)),
            claim("feature_polygons", "with most examples features form a polygon", "found.feature_polygons", (0.5, 1)),
            Check("length_does_not_decide", "after three times the steps there is a dip and a peak as well",
                  "three_times_the_steps.verdict"),
        ],
    )  # fmt: skip


def turns(rows: pd.DataFrame) -> stats.DoubleDescent:
    return stats.double_descent(rows.pivot(index="seed", columns="examples", values="unseen_loss"))


def found(n: int, rows: pd.DataFrame, turns: stats.DoubleDescent) -> dict:
    """At the small T, at the peak's and at the largest; losses of the zero predictor and the best constant."""
    features, ratio = UnitLength(n, ACTIVE / n), rows["example_dimensions"] / rows["feature_dimensions"]
    constant = n * features.variance.item()
    told = {"zero_predictor": n * features.second_moment.item(), "constant_predictor": constant,
            "first_over_dip": turns.fall, "peak_over_dip": turns.rise, "peak_over_end": turns.end,
            "peak_examples": turns.peak}  # fmt: skip
    rows = rows.assign(unseen_minus_constant=rows["unseen_loss"] - constant, examples_ahead=np.log(ratio),
                       unseen_minus_seen=rows["unseen_loss"] - rows["seen_loss"])  # fmt: skip
    for where, T in (("small", SMALL), ("peak", int(turns.peak.value)), ("large", rows["examples"].max())):
        told |= {f"{name}_{where}": stats.mean(rows.loc[rows["examples"] == T, name]) for name in NUMBERS}
    for one, T in (("example", SMALL), ("feature", rows["examples"].max())):
        told[f"{one}_polygons"] = stats.share(rows.loc[rows["examples"] == T, f"{one}_regular"])
    return told


def answer(turns: dict) -> str:
    peaks = [f"{own.rise.value:.2g}-fold at {own.peak.value:,.0f} examples of {n:,} features"
             for n, own in turns.items() if own.verdict == "supported"]  # fmt: skip
    told = f"the loss on unseen data rises to a peak: {' and '.join(peaks)}" if peaks else "no peak of the loss is sure"
    return f"Few examples are stored one by one, many give way to the features, and in between {told}."


def draw(rows: pd.DataFrame, turns: dict, found: dict, endless_data: dict, networks) -> plots.Figure:
    """Losses and dimensionalities against T for each n; below, one seed's examples and features in the plane."""
    figure = plots.Figure(figsize=(13, 4.1 * len(turns) + 5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[4.1 * len(turns), 5])
    for (loss, size), (n, own) in zip(above.subplots(len(turns), 2, squeeze=False), rows.groupby("n"), strict=True):
        constant, examples = found[n]["constant_predictor"], np.sort(own["examples"].unique())
        own = own.assign(**{"unseen data": own["unseen_loss"] - constant, "training set": own["seen_loss"] - constant,
                            "training examples": np.log10(own["example_dimensions"]),
                            "features": np.log10(own["feature_dimensions"])})  # fmt: skip
        plots.reference(loss, examples, 0.0, "best constant")
        if n == rows["n"].min():
            plots.reference(loss, examples, endless_data["unseen_loss"].value - constant, "endless data")
        plots.zone(loss, turns[n].peak.low, turns[n].peak.high, upright=True)
        loss.set_yscale("symlog", linthresh=1e-3, linscale=0.6)
        plots.reference(size, few := examples[examples <= 64], np.log10(2 / few), "2 / T: even shares")
        plots.null(size, examples, math.log10(4 / n), "untrained features")
        plots.ticks(size, y={power: f"{10.0**power:g}" for power in range(-4, 1)})
        for ax, kinds, what in ((loss, LOSSES, "loss minus the best constant's"),
                                (size, KINDS, "dimensions of a typical vector")):  # fmt: skip
            plots.curves(ax, {kind: own.groupby("examples")[kind].apply(stats.mean) for kind in kinds}, colours=kinds)
            ax.set(xscale="log", xlabel="training examples T", ylabel=what, title=f"{n:,} features")
            plots.legend(ax)
    shown = examples[np.unique(np.linspace(0, len(examples) - 1, 6).round().astype(int))]
    for column, T in zip(below.subplots(2, len(shown), squeeze=False).T, shown, strict=True):
        trained = networks(own[(own["examples"] == T) & (own["seed"] == 0)])
        vectors = (hidden_vectors(trained), trained.parameters["W"])
        for ax, V, (kind, colour), count in zip(column, vectors, KINDS.items(), (T, n), strict=True):
            plots.directions(ax, V[0].numpy(), colour, up=None, reach=None)
            ax.set_title(f"{count:,.0f} {kind}", fontsize=10)
    return figure


if __name__ == "__main__":
    experiment(study)
