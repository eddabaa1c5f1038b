"""How many latents should a dictionary have? Splitting, absorption, dead latents, score and description length.

16 features, U[0, 1] magnitudes, along random unit directions in 12 dimensions; L1 dictionaries with H/F from 1/2 to 16.
Worlds: four densities, frequencies that fall as Zipf's law (exponents 1 and 2, mean density .05), and a hierarchy in
which a child is on only if its parent is, beside independent features of the same frequencies (its control).

Two criteria. Score: MCC (one-to-one matching of directions, missing features count 0) above that of as many random
latents. Description length of a sample, as in Ayonrinde et al. (2024, "Interpretability as compression"), at precision
D = .05: which latents are on, sum_j h2(f_j); L0 log2(1/D) for how much; (d/2) log2(1 + mse / (d D^2)) for what is left;
and the decoder at log2(1/D) bits a number, shared out over the training samples. The features themselves as dictionary
give the reference. The optimum is the H whose mean over seeds is best, with a bootstrap interval over seeds of
log2(H*/F); an interval of one point says that every resample has the same optimum.

Hypotheses and rules. `optimum_near_F`: by description length H* is F or 2F in all four densities. `criteria_agree`: H*
by score and by length differ by a factor of 2 at most in every world. `moves_with_density`: log2 H* by length differs
between densities .02 and .2 (interval of the difference excludes 0); `moves_with_frequencies`: between Zipf 2 and
uniform at .05; `moves_with_penalty`: between coefficients .03 and .3. `splitting_grows`, `dead_grows`: a larger share
of latents is split (dead) at H/F = 16 than at 1, base world. `absorption`: in the hierarchy more latents at H/F = 2
are silent where another feature is on (A&!B) than with independent features of the same frequencies.

Each H is trained at its own learning rate, searched in the base world (p = .05, coefficient .1) on other seeds.
Controls that can fail: `rate_does_not_decide`, `length_does_not_decide`: at half and twice the rate, and at half the
steps, the base world's H* by length moves by a factor of 2 at most; other precisions (D = .02, .1); untrained scores.

Added after looking: what a score above chance can reach falls as latents, and so chance, grow, which favours small
dictionaries. So optima are also given for the score as a share of that ceiling, (MCC - chance) / (1 - chance), and for
F1 of firing: `ceiling_agrees`: H* by the former and by length differ by a factor of 2 at most in every world.

Two cores: --quick about a minute (not timed alone), default 7 to 8.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from toysup import plots, report, stats
from toysup.ensemble import Trained
from toysup.features import Hierarchy, PowerLaw, SparseUniform
from toysup.measure import feature_f1, held_out_loss, mcc_above_chance, mean_l0, reconstruction_error
from toysup.measure.dictionary import firing, latent_kinds
from toysup.models import L1, Embedding, SparseAutoencoder
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, sweep
from toysup.tasks import Reconstruction
from toysup.theory import mcc_floor

QUESTION = "How many latents should a dictionary have, and how does that move with density and frequencies?"
F, WIDTH, PENALTY, BASE = 16, 12, 0.1, "p = .05"
PRECISION = 0.05
TREE = Hierarchy(F, 3, 0.12, 0.3, n_roots=4)
WORLDS = {
    "p = .02": np.full(F, 0.02), BASE: np.full(F, 0.05), "p = .1": np.full(F, 0.1), "p = .2": np.full(F, 0.2),
    "Zipf 1": PowerLaw(F, 1.0, 0.05).activity.numpy(), "Zipf 2": PowerLaw(F, 2.0, 0.05).activity.numpy(),
    "as hierarchy": TREE.activity.numpy(),
}  # fmt: skip
AXES = ("features.density", "task.penalty", "optimizer.lr")


def bits(trained: Trained, precision: float = PRECISION) -> Tensor:
    """Description length of a sample, bits."""
    seen = firing(trained)
    f = (seen.latent / seen.samples).double()
    which = -(torch.xlogy(f, f) + torch.xlogy(1 - f, 1 - f)).sum(-1) / math.log(2)
    each, width = math.log2(1 / precision), trained.setting.task.n_inputs(trained.setting.features)
    left = width / 2 * torch.log2(1 + seen.error.mean(0) / (width * precision**2))
    decoder = f.shape[-1] * width * each / (trained.setting.steps * trained.setting.batch)
    return which + each * f.sum(-1) + left + decoder


def bits_fine(trained: Trained) -> Tensor:
    """`bits` at precision .02."""
    return bits(trained, 0.02)


def bits_coarse(trained: Trained) -> Tensor:
    """`bits` at precision .1."""
    return bits(trained, 0.1)


def dead_share(trained: Trained) -> Tensor:
    """Latents never on, per latent."""
    kinds = latent_kinds(trained)
    return kinds.dead / sum(kinds)


def split_share(trained: Trained) -> Tensor:
    """Latents about a feature that has another, per latent."""
    kinds = latent_kinds(trained)
    return kinds.split / sum(kinds)


def silenced(trained: Trained) -> Tensor:
    """Latents for a feature that are off where some other feature is on, A&!B."""
    return latent_kinds(trained).composite_and_not


def conjunctions(trained: Trained) -> Tensor:
    """Latents for A&B."""
    return latent_kinds(trained).composite_and


def f1(trained: Trained) -> Tensor:
    """Mean over features of their matched latents' F1."""
    return feature_f1(trained).nanmean(-1)


def untrained(trained: Trained) -> Tensor:
    """Score before training."""
    return mcc_above_chance(trained.at(0))


def oracle(density: np.ndarray) -> float:
    """Bits of a sample if the features themselves are the dictionary (without the decoder)."""
    which = -(density * np.log2(density) + (1 - density) * np.log2(1 - density)).sum()
    return float(which + density.sum() * math.log2(1 / PRECISION))


def setting_of(run: report.Run, latents: int, features: Any, lr: float = 0.01) -> Setting:
    """One dictionary size in one kind of world."""
    task = Reconstruction(Model(Embedding, width=WIDTH), penalty=PENALTY)
    model = Model(SparseAutoencoder, latents=latents, sparsity=L1())
    steps, batch = run.pick(default=2000, quick=600, smoke=4), run.pick(default=256, smoke=32)
    return Setting(features, task, model, Adam(lr, beta2=0.99, schedule=Cosine()), steps, batch)


def run_all(run: report.Run) -> tuple[pd.DataFrame, pd.DataFrame, str, float]:
    """One row per dictionary; the learning rates; engines and seconds."""
    options: dict[str, Any] = {"results": run.results, "device": run.device, "workers": run.workers}
    sizes = [int(F * r) for r in run.pick(default=[0.5, 1, 2, 4, 8, 16], quick=[0.5, 1, 2, 4], smoke=[0.5, 1])]
    seeds = range(run.pick(default=12, quick=8, smoke=2))
    base = SparseUniform(F, WORLDS[BASE])
    search = {f"H{h}": Grid(setting_of(run, h, base), {"seed": SEARCH_SEEDS}) for h in sizes}
    rates = best_rates(search, run.pick(default=[0.005, 0.01, 0.02], quick=[0.01, 0.02]), score=held_out_loss,
                       lowest=True, extend=run.pick(default=3, quick=0), **options)  # fmt: skip
    grids = {}
    for h in sizes:
        lr = float(rates.loc[f"H{h}", "lr"])
        cells = {world: (density, PENALTY, lr) for world, density in WORLDS.items()}
        cells |= {f"penalty {c:g}": (WORLDS[BASE], c, lr) for c in (0.03, 0.3)}
        cells |= {f"rate x{r:g}": (WORLDS[BASE], PENALTY, lr * r) for r in (0.5, 2.0)}
        setting = setting_of(run, h, base, lr)
        grids[f"worlds_H{h}"] = Grid(setting, {AXES: cells, "seed": seeds})
        grids[f"hierarchy_H{h}"] = Grid(setting_of(run, h, TREE, lr), {"seed": seeds})
        grids[f"half_H{h}"] = Grid(setting, {"steps": [max(1, setting.steps // 2)], "seed": seeds})
    measures = [mcc_above_chance, f1, bits, bits_fine, bits_coarse, dead_share, split_share, silenced, conjunctions,
                mean_l0, reconstruction_error, untrained]  # fmt: skip
    answers = sweep(grids, measures, snapshots=(0,), **options)
    parts = []
    for name, answer in answers.items():
        kind, _, h = name.partition("_H")
        parts.append(answer.table.assign(latents=int(h), ratio=int(h) / F, kind=kind))
    rows = pd.concat(parts, ignore_index=True)
    engine = ", ".join(sorted(set(rows["engine"])))
    return rows, rates, engine, sum(answer.seconds for answer in answers.values())


def by_seed(rows: pd.DataFrame, world: str, column: str) -> pd.DataFrame:
    """(seed, ratio) of one measure in one world."""
    return rows[rows["world"] == world].pivot(index="seed", columns="ratio", values=column).astype(float)


def optimum(values: pd.DataFrame, lowest: bool) -> stats.Interval:
    """log2(H*/F), H* where the mean over seeds is best, with its bootstrap interval over seeds."""
    ratios = np.log2(values.columns.to_numpy())
    sign = -1 if lowest else 1
    return stats.bootstrap(lambda v: ratios[(sign * v.mean(0)).argmax()], values.to_numpy(), resamples=1000)


def shift(a: pd.DataFrame, b: pd.DataFrame) -> stats.Interval:
    """log2 of the optimum by length in b over that in a, seeds drawn together."""
    ratios = np.log2(a.columns.to_numpy())
    return stats.bootstrap(lambda u, v: ratios[v.mean(0).argmin()] - ratios[u.mean(0).argmin()], a.to_numpy(),
                           b.to_numpy(), paired=True, resamples=1000)  # fmt: skip


def moves(interval: stats.Interval) -> stats.Verdict:
    """Whether an optimum moved: supported where the interval lies on one side of 0."""
    return stats.some(stats.decide(interval, (0.01, np.inf)), stats.decide(interval, (-np.inf, -0.01)))


def main(run: report.Run) -> None:
    rows, rates, engine, seconds = run_all(run)
    names = {"hierarchy": "hierarchy", "half": "half length"}
    chance = rows["latents"].map(lambda h: mcc_floor(F, h, WIDTH))
    rows["found"] = rows["mcc_above_chance"] / (1 - chance)
    rows["world"] = [names.get(kind, world) for kind, world in zip(rows["kind"], rows["density"], strict=True)]
    ratios = sorted(rows["ratio"].unique())
    worlds = [*WORLDS, "hierarchy"]
    statistics, verdict, controls = {}, {}, {name: {} for name in ("by_size", "other_precision", "moved", "untrained")}
    best, agree, close = {}, [], []
    for world in worlds:
        length, score = by_seed(rows, world, "bits"), by_seed(rows, world, "mcc_above_chance")
        best[world] = statistics[f"log2 H*/F by length, {world}"] = optimum(length, True)
        statistics[f"log2 H*/F by score, {world}"] = optimum(score, False)
        for name, column, into in (("score", "mcc_above_chance", agree), ("ceiling", "found", close)):
            other = by_seed(rows, world, column)
            apart = stats.bootstrap(
                lambda u, v: np.log2(ratios[v.mean(0).argmax()] / ratios[u.mean(0).argmin()]), length.to_numpy(),
                other.to_numpy(), paired=True, resamples=1000)  # fmt: skip
            statistics[f"log2 H* by {name} less by length, {world}"] = apart
            into.append(stats.decide(apart, 1.0))
        at_best = length.mean().idxmin()
        statistics[f"score at H*, {world}"] = stats.mean(score[at_best])
        if world in WORLDS:
            excess = length[at_best] / oracle(WORLDS[world].astype(float))
            statistics[f"bits at H* over the features' own, {world}"] = stats.mean(excess)
        others = {c: optimum(by_seed(rows, world, c), True) for c in ("bits_fine", "bits_coarse")}
        controls["other_precision"][world] = others
    near = [stats.decide(best[world], (-0.01, 1.01)) for world in ("p = .02", BASE, "p = .1", "p = .2")]
    verdict["optimum_near_F"], verdict["criteria_agree"] = stats.every(*near), stats.every(*agree)
    verdict["ceiling_agrees"] = stats.every(*close)
    for name, a, b in (("density", "p = .02", "p = .2"), ("frequencies", BASE, "Zipf 2"),
                       ("penalty", "penalty 0.03", "penalty 0.3")):  # fmt: skip
        moved = shift(by_seed(rows, a, "bits"), by_seed(rows, b, "bits"))
        statistics[f"log2 H* by length, {b} over {a}"] = moved
        verdict[f"moves_with_{name}"] = moves(moved)
    for kind in ("split", "dead"):
        own = by_seed(rows, BASE, f"{kind}_share")
        grown = statistics[f"{kind} share, most less H = F"] = stats.mean(own[ratios[-1]] - own[1.0])
        verdict["splitting_grows" if kind == "split" else "dead_grows"] = stats.decide(grown, (1e-9, np.inf))
    two = 2.0 if 2.0 in ratios else 1.0
    hidden = [by_seed(rows, world, "silenced")[two] for world in ("hierarchy", "as hierarchy")]
    statistics["A&!B latents at H = 2F, hierarchy"], statistics["and independent"] = map(stats.mean, hidden)
    more = statistics["hierarchy less independent"] = stats.mean(hidden[0] - hidden[1])
    verdict["absorption"] = stats.decide(more, (1e-9, np.inf))
    base = by_seed(rows, BASE, "bits")
    steady = {w: shift(base, by_seed(rows, w, "bits")) for w in ("rate x0.5", "rate x2", "half length")}
    controls["moved"] = steady
    verdict["rate_does_not_decide"] = stats.every(*(stats.decide(steady[w], 1.0) for w in ("rate x0.5", "rate x2")))
    verdict["length_does_not_decide"] = stats.decide(steady["half length"], 1.0)
    columns = [
        "mcc_above_chance",
        "found",
        "f1",
        "bits",
        "dead_share",
        "split_share",
        "silenced",
        "conjunctions",
        "mean_l0",
    ]
    for world, own in rows.groupby("world"):
        at = {f"{r:g}": own[own["ratio"] == r] for r in ratios}
        controls["by_size"][world] = {c: {r: stats.mean(rows[c]) for r, rows in at.items()} for c in columns}
        controls["untrained"][world] = stats.mean(own["untrained"])
    controls["learning_rates"] = rates.to_dict("index")
    report.write(run, draw(rows, best, ratios), statistics=statistics, verdict=verdict, controls=controls,
                 engine=engine, instances=len(rows), steps=run.pick(default=2000, quick=600, smoke=4),
                 seconds=seconds)  # fmt: skip


def draw(rows: pd.DataFrame, best: dict[str, stats.Interval], ratios: list[float]) -> plots.Figure:
    """Description length and score over H/F, what latents there are, and where the optimum lies."""
    figure, axes = plots.figure(2, 3, width=13, height=3.9)
    length, score, where, split, dead, silent = axes.flat
    densities = ["p = .02", BASE, "p = .1", "p = .2"]
    colours = plots.category_colours([*densities, "Zipf 1", "Zipf 2", "hierarchy", "as hierarchy"])
    shown = rows.assign(excess=[b / oracle(WORLDS[w].astype(float)) if w in WORLDS else np.nan
                                for b, w in zip(rows["bits"], rows["world"], strict=True)])  # fmt: skip
    panels = ((length, "excess", [*densities, "Zipf 2"]), (score, "found", [*densities, "Zipf 2"]),
              (split, "split_share", densities), (dead, "dead_share", [*densities, "Zipf 2"]),
              (silent, "silenced", ["hierarchy", "as hierarchy", BASE]))  # fmt: skip
    for ax, column, names in panels:
        own = shown[shown["world"].isin(names)]
        plots.band(ax, own, "ratio", column, "world", colours={name: colours[name] for name in names}, log=True)
        ax.set(xlabel="latents / features, H/F")
        ax.legend(fontsize=9)
    plots.reference(length, ratios, 1.0, "the features themselves")
    plots.reference(score, ratios, 1.0, "the features themselves")
    plots.null(score, ratios, 0.0, "random dictionary")
    length.set(ylabel="description length / the features' own", title="Description length")
    score.set(ylabel="(MCC - chance) / (1 - chance)", title="Features found", ylim=(-0.05, 1.12))
    split.set(ylabel="share of latents", title="Split: about a feature that has one")
    dead.set(ylabel="share of latents", title="Dead latents")
    silent.set(ylabel="latents for A&!B", title="Silent where another feature is on")
    kinds = [*densities, "Zipf 1", "Zipf 2", "as hierarchy", "hierarchy"]
    marked = [("bits", "description length", "o", "black"),
              ("mcc_above_chance", "MCC - chance", "s", colours["p = .02"]),
              ("found", "(MCC - chance) / (1 - chance)", "D", colours["p = .1"]),
              ("f1", "F1 of firing", "^", colours["p = .2"])]  # fmt: skip
    for offset, (column, label, marker, colour) in zip((-0.24, -0.08, 0.08, 0.24), marked, strict=True):
        found = [optimum(by_seed(rows, w, column), column == "bits") for w in kinds]
        reach = np.array([[one.value - one.low, one.high - one.value] for one in found]).T
        where.errorbar([one.value for one in found], -np.arange(len(kinds)) - offset, fmt=marker, capsize=3,
                       xerr=np.where(np.isfinite(reach), reach, 0), label=label, color=colour, ms=5)  # fmt: skip
    where.set_yticks(-np.arange(len(kinds)), kinds)
    where.set_xticks(np.log2(ratios), [f"{r:g}" for r in ratios])
    where.set(xlabel="best H/F (95%)", title="Where each criterion's optimum lies")
    where.set_xlim(np.log2(ratios[0]) - 0.3, np.log2(ratios[-1]) + 0.3)
    where.set_ylim(-len(kinds) - 2.6, 0.6)  # room for the legend
    where.legend(fontsize=9, loc="lower left")
    shortest = {w: f"{2 ** best[w].value:g}" for w in kinds}
    usual = max(set(shortest.values()), key=list(shortest.values()).count)
    others = ", ".join(f"{ratio} for {w}" for w, ratio in shortest.items() if ratio != usual)
    figure.suptitle(
        f"The shortest description has H/F = {usual}{' (' + others + ')' if others else ''}; more latents split or die"
    )
    return figure


if __name__ == "__main__":
    report.experiment(main)
