"""Low activations look polysemantic: is that more than superposition predicts?

Katta's note (2024) takes it for a hint at another scheme. But superposition of independent features says how impure
they must be: a readout is z_i = x_i + interference, so P(feature on | z) = p f1(z) / (p f1(z) + (1 - p) f0(z)) falls
where z is small. Purity on held-out data by level of z is compared with that posterior twice: `independent` pairs each
sample's feature with another's interference (only dependence between the two can make a difference), `gaussian` takes
interference as normal. Positive controls: pairs that are always on together, and pairs of which at most one is on.
Two cores: --quick about a minute, default about 3.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from toysup import plots, stats
from toysup.features import Correlated, SparseUniform
from toysup.measure.purity import purity
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.study import Check, Claim, Finding, Run, Study, experiment
from toysup.tasks import Identity

QUESTION = "Are weak activations more polysemantic than superposition of independent features predicts?"
EDGES = np.array([0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 1.0])
LOW, HIGH = range(4), [9]  # .05 to .25, .75 to 1
FREE, PAIRS = {"world": ["p0.05_load8", "p0.02_load8", "p0.05_load4"]}, {"world": ["pairs_together", "pairs_exclusive"]}


class World(NamedTuple):
    world: str
    density: float = 0.05
    load: int = 8  # n / m


def study(run: Run) -> Study:
    size = run.sizes(dict(n=16, m=16, steps=4000, seeds=32, batches=32), quick=dict(steps=1000, seeds=8, batches=16),
                     smoke=dict(n=2, m=4, steps=20, seeds=2, batches=4))  # fmt: skip

    def setting(cell: World) -> Setting:
        n, adam = cell.load * size.n, Adam(0.01, beta2=0.99, schedule=Cosine())
        pairs = Correlated(n, 2, cell.density, anti=cell.world == "pairs_exclusive")
        features = pairs if cell.world in PAIRS["world"] else SparseUniform(n, cell.density)
        return Setting(features, Identity(), Model(TiedAutoencoder, width=size.m), adam, size.steps, batch=512)

    def levels(trained) -> dict:
        after, before = (purity(own, EDGES, batches=size.batches)._asdict() for own in (trained, trained.at(0)))
        return after | {f"untrained_{name}": values for name, values in before.items()}

    gap, says = "purity.low_minus_independent", "weak readouts as pure as independent interference makes them to .01"
    claims = [
        Claim("look_polysemantic", "weak readouts (.05 to .25) are less than half as pure as strong ones (.75 to 1)",
              "purity.low_over_high", (0, 0.5), where=FREE),
        Claim("nothing_left_to_explain", f"independent features make {says}", gap, 0.01, where=FREE),
        Claim("gaussian_is_enough", "normal interference tells purity to within .05 at every level",
              "purity.gaussian_worst_gap", 0.05, where=FREE),
        Check("dependence_would_show", f"pairs do not make {says}", gap, outside=0.01, where=PAIRS, combine=stats.some),
    ]  # fmt: skip
    worlds = [World(FREE["world"][0]), World("p0.02_load8", density=0.02), World("p0.05_load4", load=4)]
    return Study([*worlds, *map(World, PAIRS["world"])], setting, measures=[levels], seeds=size.seeds, snapshots=(0,),
                 findings={"purity": Finding(purities, "world", "{world}_{column}")}, claims=claims, draw=draw,
                 answer=answer)  # fmt: skip


def purities(features: pd.DataFrame, world: str) -> dict[str, stats.Interval]:
    levels = features[features["world"] == world].set_index(["feature", "seed"])

    def pooled(column: str, which=LOW) -> pd.Series:
        """Each seed's purity over several levels, weighted by how many readouts each has."""
        own = levels[levels.index.isin(which, level="feature")].dropna(subset=column)
        counts = own["untrained_count" if "untrained" in column else "count"]
        return (own[column] * counts).groupby("seed").sum() / counts.groupby("seed").sum()

    low, high, off = pooled("measured"), pooled("measured", HIGH), (levels["measured"] - levels["gaussian"]).dropna()
    untrained = pooled("untrained_measured") - pooled("untrained_independent")
    worst = max(off.groupby("feature").apply(stats.mean), key=lambda found: abs(found.value))
    return {"low": stats.mean(low, bounds=(0, 1)), "high": stats.mean(high, bounds=(0, 1)),
            "low_over_high": stats.ratio(low, high, paired=True), "gaussian_worst_gap": worst,
            "low_minus_independent": stats.mean(low - pooled("independent")),
            "untrained_low_minus_independent": stats.mean(untrained)}  # fmt: skip


def answer(purity: dict, verdicts: dict) -> str:
    low, high = (purity["p0.05_load8"][name].value for name in ("low", "high"))
    how = "as" if verdicts["nothing_left_to_explain"] == "supported" else "not shown to be as"
    return (f"Weak activations are {how} impure as superposition of independent features makes them: {low:.0%} of them "
            f"have their feature on, {high:.0%} of strong ones")  # fmt: skip


def draw(features: pd.DataFrame) -> plots.Figure:
    figure, axes = plots.figure(1, 5, width=15, height=4.2, sharey=True)
    for ax, (world, own) in zip(axes[0], features.groupby("world", sort=False), strict=True):
        own = own.assign(readout=((EDGES[1:] + EDGES[:-1]) / 2)[own["feature"]])
        plots.band(ax, own, "readout", "measured", linestyle="none")
        means = own.groupby("readout")[["independent", "gaussian"]].mean()
        ax.plot(means["independent"], color="black", linewidth=1.2, zorder=1, label="if interference is independent")
        if world in FREE["world"]:
            ax.plot(means["gaussian"], color=plots.GREY, linestyle="--", zorder=1, label="and normal")
        ax.axhline(own["density"].iloc[0], color=plots.GREY, linestyle=":", label="knowing nothing: density p")
        ax.set(title=world.replace("_load", ", n / m = ").replace("p0", "p = 0").replace("_", ": "), ylim=(0, 1.03))
    plots.labels(axes, "readout z", "P(feature on | z)")
    plots.legend(figure)
    return figure


if __name__ == "__main__":
    experiment(study)
