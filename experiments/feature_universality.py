"""Do a deep and a wide network of equal parameters and equal loss learn the same features?

Katta's contradiction (2024) assumes that equally good models learn the same features. A = (d, L) and B = (2d, L/4)
learn one world: `representation`, 128 sparse features with Zipf frequencies and log-normal importances drawn
independently of them; `memory`, 2,048 facts with Zipf frequencies, one at a time. The shape with the lower loss is then
trained for fewer steps, at several lengths, and networks are paired one to one so that the losses of each pair agree to
1% (the pairs that do, or the 20 nearest). Similarities of two networks: `scores`, Spearman's correlation over features
of R^2_i (of the bits of fact i); `CKA` (debiased) and `SVCCA` of hidden activations; `units`, neurons matched in truth
coordinates; `gram`, W_i . W_j. U = (across - floor) / (ceiling - floor): ceiling = same shape, other seed, floor =
shuffled. Across shapes SVCCA and `units` match what is smaller with more than either meets within its shape, so there U
can exceed 1 for that reason alone. Where networks that had other importances (frequencies) are found alike too, a
measure cannot tell. Thresholds were set after a pilot of 4 networks on other seeds; untrained floors were added after a
--quick run. Two cores: --quick about a minute, default about 5.
"""

import math
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from toysup import plots, stats
from toysup.checks import check_interval
from toysup.ensemble import Trained
from toysup.features import OnePerGroup, PowerLaw, SparseUniform
from toysup.features.base import as_tensor
from toysup.measure import fact_bits, held_out_loss, r_squared
from toysup.models import ResidualMLP, UntiedAutoencoder
from toysup.search import SEARCH_SEEDS
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape, model_b_of
from toysup.study import Check, Claim, Finding, Run, Search, Study, Variant, bracketed, experiment
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity, Memory

sys.path.insert(0, str(Path(__file__).resolve().parent))
import _agreement
from _agreement import MEASURES, TASKS, importances, models, near_zero, own, scores_of, zipf

QUESTION = "Do a deep and a wide network of equal parameters and equal loss learn the same features?"
LABELS, ALIKE = 4, (0.9, math.inf)
STEADY = ("scores", "CKA")  # measures with checks of lengths of their own
FIRST_SEED = {"A": 0, "B": 100, "other": 200, "facts": 300}  # no two networks share a start


class Cell(NamedTuple):
    """A, B or the one trained for fewer steps ("short"), in the plain world, another, or one of features all alike."""

    task: str
    model: str
    world: str = "plain"


@dataclass(frozen=True)
class UnequalFacts(OnePerGroup):
    """One fact at a time, each with a frequency of its own (relative)."""

    frequency: Any = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_interval("UnequalFacts", "frequency", self.frequency, 0, open_low=True, length=self.n_features)

    @property
    def activity(self):
        weight = as_tensor(self.frequency).expand(self.n_features)
        return weight / weight.sum()

    def indices(self, uniforms):
        self._check_width(uniforms)
        return torch.searchsorted(self.activity.cumsum(0), uniforms.contiguous()).clamp(max=self.n_features - 1)


def loss(trained: Trained) -> Any:
    """On held-out draws; of facts exact, over all of them by their frequencies."""
    if not isinstance(trained.setting.task, Memory):
        return held_out_loss(trained)
    lost = 1 - fact_bits(trained).double()
    return math.log(LABELS) * (lost * trained.setting.features.activity.double()).sum(1)


def scores(trained: Trained) -> Any:
    """R^2 of each feature, bits / 2 of each fact."""
    return fact_bits(trained) if isinstance(trained.setting.task, Memory) else r_squared(trained)


def study(run: Run) -> Study:
    size = run.sizes(dict(seeds=24, features=128, a=Shape(16, 8), steps=2000, batch=512, facts=2048, memory=Shape(8, 8),
                          memory_steps=2000, memory_batch=256, middle=0.01, wide=2, extend=3, lengths=10,
                          around=(0.8, 0.9, 1.0, 1.1, 1.25)),
                     quick=dict(seeds=8, features=64, a=Shape(8, 4), steps=350, batch=256, facts=512, middle=0.02,
                                memory=Shape(8, 4), memory_steps=300, around=(0.85, 1.0, 1.2), extend=1),
                     smoke=dict(seeds=3, features=32, steps=24, batch=64, facts=64, memory_steps=16, memory_batch=64,
                                wide=0.5, extend=0, lengths=2, around=(1.0,)))  # fmt: skip
    options = {"results": run.results, "device": run.device, "workers": run.workers}

    def setting(cell: Cell) -> Setting:
        big, alike, other = cell.model == "A", cell.world == "alike", cell.world == "other"
        adam = Adam(beta2=0.99, schedule=Cosine())
        if cell.task == "representation":
            shape, n = size.a if big else model_b_of(size.a), size.features
            features = SparseUniform(n, 3.6 / n) if alike else PowerLaw(n, 1.0, 3.6 / n)
            built = Model(UntiedAutoencoder, width=shape.width, depth=shape.depth, hidden=shape.hidden)
            task = Identity(1.0 if alike else importances(n, other))
            return Setting(features, task, built, adam, size.steps, size.batch)
        shape, n = size.memory if big else model_b_of(size.memory, LABELS), size.facts
        frequency = zipf(n)[np.random.default_rng(0).permutation(n)] if other else zipf(n)
        facts = OnePerGroup(n, 1) if alike else UnequalFacts(n, 1, frequency=frequency)
        built = Model(ResidualMLP, shape=shape, unembedding="coordinates", row_norm=math.sqrt(shape.width))
        data = None if cell.world == "facts" else 7  # labels and batches; without it each network has its own
        return Setting(facts, Memory(LABELS), built, adam, size.memory_steps, size.memory_batch, data_seed=data)

    def seeds(name: str) -> range:
        return range(FIRST_SEED[name], FIRST_SEED[name] + size.seeds)

    rates = size.middle * 2.0 ** np.arange(-size.wide, size.wide + 1)
    begun = Study([Cell(task, model, world) for task in TASKS for model in "AB" for world in ("plain", "alike")],
                  lambda cell: Grid(setting(cell), {"seed": seeds(cell.model)}), measures=[loss, scores],
                  snapshots=(0,), search=Search(setting, rates, score=loss, lowest=True, extend=size.extend),
                  variants={"half": Variant({"steps": 0.5}, lambda cell: cell.world == "plain")})  # fmt: skip

    @cache
    def first() -> Any:
        return begun.train(**options).trained

    @cache
    def shorter(task: str) -> tuple[str, float, float]:
        """(the model with the lower loss, its learning rate, the steps at which it would have the other's)."""
        rows = first().rows[lambda table: table["task"] == task]
        long, short = models(rows)
        lr, whole, name = float(own(rows, short)["lr"].iloc[0]), setting(Cell(task, short)), f"{task}_lengths"
        lengths = sorted({max(1, round(whole.steps / 1.5**k)) for k in range(size.lengths)})
        axes = {"optimizer.lr": [lr], "steps": lengths, "seed": SEARCH_SEEDS}
        curve = sweep({name: Grid(whole, axes)}, [loss], **options)[name].table.groupby("steps")["loss"].mean()
        better = np.maximum.accumulate(-np.log(curve.to_numpy()))
        return short, lr, math.exp(np.interp(-np.log(own(rows, long)["loss"]).mean(), better, np.log(curve.index)))

    def grid(cell: Cell) -> Grid:
        model, lr, wanted = shorter(cell.task)
        plain, whole = cell.world == "plain", setting(cell._replace(model=model))
        lengths = {min(whole.steps, max(1, round(wanted * factor))) for factor in (size.around if plain else (1.0,))}
        axes = {"optimizer.lr": [lr], "steps": sorted(lengths), "seed": seeds(model if plain else cell.world)}
        return Grid(whole, axes)

    def resting(name: str, *others: str) -> dict[str, list[str]]:
        """Checks that claims by a measure rest on; there is one of lengths for scores and CKA, else that of both."""
        lengths = f"{name}_" * (name in STEADY) + "length_does_not_decide"
        zero = ["alike_agree_at_zero"] * (name == "scores")
        return {"checks": ["learning_rate_bracketed", lengths, *zero, *others]}

    def paired_by(name: str) -> dict[str, list[str]]:
        return resting(name, "losses_equal", f"{name}_" * (name in STEADY) + "matching_does_not_decide")

    claims = [Claim("same_features", "both shapes learn the same features: scores agree 9/10 as well as within a shape",
                    "numbers.scores_U", ALIKE, each="{task}_scores_same", **paired_by("scores")),
              Claim("same_geometry", "both shapes carry them in the same way, by CKA", "numbers.CKA_U", ALIKE,
                    each="{task}_CKA_same", **paired_by("CKA"))]  # fmt: skip
    for name in MEASURES:
        kept = {"where": {"task": "representation"} if name == "gram" else None, "combine": None}
        if name not in STEADY:
            claims.append(Claim(f"{name}_same", f"by {name} both shapes are alike in {{task}}", f"numbers.{name}_U",
                                ALIKE, each=f"{{task}}_{name}_same", **kept, **paired_by(name)))  # fmt: skip
        claims.append(Claim(f"{name}_can_tell", f"by {name} networks of another law are less alike in {{task}}, so "
                            "that it can tell", f"numbers.{name}_U_other", (-math.inf, ALIKE[0]),
                            each=f"{{task}}_{name}_can_tell", **kept, **resting(name)))  # fmt: skip
    steady = []
    for kind, name, says in (("half", "length_does_not_decide", "half the training of both shapes"),
                             ("full", "matching_does_not_decide", "full training, at unequal losses,")):  # fmt: skip
        both = {one: f"{one}_U_{kind}_minus_equal" for one in STEADY}
        steady += [Check(f"{one}_{name}", f"{says} moves U by less than .1, by {one}", f"numbers.{column}", 0.1)
                   for one, column in both.items()]  # fmt: skip
        steady.append(Check(name, f"{says} moves U by less than .1, by scores and CKA", by="task", of=lambda numbers,
                            both=both: stats.every(*(stats.decide(numbers[own], 0.1) for own in both.values())))
                      )  # fmt: skip
    return Study(
        [Cell(task, "short", world) for task, more in TASKS.items() for world in ("plain", *more)], grid,
        measures=[loss, scores], given=lambda: [first()], draw=draw, answer=answer,
        findings={"pairs": Finding(_agreement.paired, "task"),
                  "agreements": Finding(_agreement.agreements, "task", variant=None),
                  "numbers": Finding(_agreement.numbers, "task", "{task}_{column}"),
                  "training": Finding(_agreement.training, "task")},
        claims=[
            *claims,
            Claim("same_learned_geometry", "they are alike by CKA beyond what untrained networks are",
                  "numbers.CKA_U_above_untrained", ALIKE, **paired_by("CKA")),
            Claim("law_explains", "given frequency and importance scores agree by less than .1: the law is shared",
                  "numbers.scores_given_law_across", 0.1, **paired_by("scores")),
            Claim("facts_do_not_matter", "networks that learned other labels for the same frequencies agree as well",
                  "numbers.scores_U_other_facts", (ALIKE[0], 1.1), where={"task": "memory"}, **resting("scores")),
            Claim("which_pairs_share_is_luck", "which features lie close to each other is luck, within a shape too",
                  lambda agreements: near_zero(agreements["equal", "gram"]), by="task",
                  where={"task": "representation"}, **paired_by("gram")),
            Check("alike_agree_at_zero", "features all alike, where only luck tells them apart, agree at 0",
                  lambda agreements: near_zero(agreements["alike", "scores"]), by="task"),
            Check("losses_equal", "paired losses agree to 1%", "numbers.ln_loss_gap", 0.01),
            *steady, bracketed(where={"model": ["A", "B"]}),
        ],
    )  # fmt: skip


def answer(numbers: dict) -> str:
    def both(column: str) -> str:
        values = [own[column].value for own in numbers.values()]
        return " and ".join(f"{value:.2f}" if math.isfinite(value) else "?" for value in values)

    rest = max(abs(own["scores_given_law_across"].value) for own in numbers.values())
    return (f"Which features two shapes learn at equal loss agrees {both('scores_U')} times as well (sparse features, "
            f"facts) as between seeds of one shape, and no more than r = {rest:.2f} beyond the features' frequency and "
            f"importance; how neurons carry them (CKA) agrees {both('CKA_U')} times as well")  # fmt: skip


def draw(rows: pd.DataFrame, features: pd.DataFrame, pairs: dict, agreements: dict) -> plots.Figure:
    """Scores of A against B; similarities by measure beside their ceilings; what is left of the agreement."""
    figure, axes = plots.figure(2, 3, width=13, height=4.4, width_ratios=[1, 1.5, 1.1])
    colours = plots.category_colours(["same shape, other seed", "other shape, equal loss", "other shape, other law",
                                      "other shape, untrained"])  # fmt: skip
    for (dots, bars, left), task in zip(axes, TASKS, strict=True):
        found = agreements[task]
        means = [scores_of(features, rows.loc[pairs[task][side]]).mean(0) for side in ("long", "short")]
        long, short = models(rows[rows["task"] == task])
        dots.scatter(*means, c=np.log(zipf(len(means[0]))) / math.log(10), s=12, cmap="viridis", rasterized=True)
        plots.reference(dots, *[[float(min(own.min() for own in means)), 1.0]] * 2, "")
        plots.colour_bar(dots, "log$_{10}$ of frequency, first = 0")
        score = "R$^2$" if task == "representation" else "bits / 2"
        dots.set(xlabel=f"{score} of a feature in {long}", ylabel=f"in {short}, at equal loss",
                 title=f"{task}: a dot a feature")  # fmt: skip
        names = [name for kind, name in found if kind == "equal"]
        parts = (("equal", "within_a", -0.34), ("equal", "within_b", -0.26), ("equal", "across", -0.1),
                 ("other", "across", 0.1), ("untrained", "across", 0.3))  # fmt: skip
        for (kind, part, shift), colour in zip(parts, [list(colours)[i] for i in (0, 0, 1, 2, 3)], strict=True):
            own = {at: getattr(found[kind, name], part) for at, name in enumerate(names) if (kind, name) in found}
            plots.interval(bars, own, color=colours[colour], shift=shift)
        for at, name in enumerate(names):
            u, tops = found["equal", name].u.value, [one.high for one in found["equal", name][1:]]
            bars.annotate(f"U = {u:.2f}" if math.isfinite(u) else "no\nceiling", (at, max(tops)), (0, 5),
                          textcoords="offset points", ha="center", fontsize=10)  # fmt: skip
        plots.level(bars, 0)
        plots.ticks(bars, x=names)
        bars.margins(y=0.15)
        bars.set(ylabel="similarity above chance", title=f"{task}: U, other shape over same shape")
        told = {"as they are": "equal", "given frequency": "given_frequency",
                "given frequency\nand importance": "given_law" if task == "representation" else "",
                "other facts,\nsame frequencies": "facts", "features all alike": "alike"}  # fmt: skip
        equal = found["equal", "scores"]
        ceiling = math.sqrt(max(equal.within_a.value * equal.within_b.value, 0))
        plots.forest(left, {label: found[kind, "scores"].across for label, kind in told.items() if (kind, "scores") in
                            found}, levels={"chance": 0, "same shape,\nother seed": ceiling})  # fmt: skip
        left.set(xlabel="correlation of scores, A with B", title=f"{task}: what they share")
        left.margins(x=0.15)
    plots.legend(figure, {kind: {"color": colour, "marker": "o"} for kind, colour in colours.items()}, only=True)
    return figure


if __name__ == "__main__":
    experiment(study)
