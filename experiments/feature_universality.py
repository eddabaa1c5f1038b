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
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm

from toysup import plots, stats
from toysup.checks import check_interval
from toysup.ensemble import Trained
from toysup.features import OnePerGroup, PowerLaw, SparseUniform
from toysup.features.base import as_tensor
from toysup.measure import directions, fact_bits, held_out_loss, r_squared
from toysup.measure.universality import shared_activations, unit_responses
from toysup.models import ResidualMLP, UntiedAutoencoder
from toysup.search import SEARCH_SEEDS
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape, model_b_of
from toysup.similarity import chance, explained, feature_correlation, gram_similarity, linear_cka, matched_cosine, svcca
from toysup.study import Check, Claim, Finding, Run, Search, Study, Variant, bracketed, experiment
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity, Memory

QUESTION = "Do a deep and a wide network of equal parameters and equal loss learn the same features?"
TASKS = {"representation": ["other"], "memory": ["other", "facts"]}  # what else the shorter training is done with
LABELS, ENOUGH, DEGREE, ALIKE = 4, 20, 4, (0.9, math.inf)
FIRST_SEED = {"A": 0, "B": 100, "other": 200, "facts": 300}  # no two networks share a start
# name -> (similarity, what it compares, the axis that is shuffled for the floor; None: the floor is 0 by construction)
MEASURES = {"scores": (feature_correlation, "scores", None), "CKA": (linear_cka, "activations", None),
            "SVCCA": (svcca, "activations", 1), "units": (matched_cosine, "units", -1),
            "gram": (gram_similarity, "code", None)}  # fmt: skip
SHOWN = {"full": ("scores", "CKA"), "half": ("scores", "CKA"), "alike": ("scores",), "facts": ("scores",)}


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


def zipf(n: int) -> np.ndarray:
    return 1 / np.arange(1, n + 1)


def importances(n: int, seed: int = 0) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).permutation(norm.ppf((np.arange(n) + 0.5) / n)))


def law(task: str, n: int) -> dict[str, np.ndarray]:
    """The logarithms of what features differ in."""
    found = {"frequency": np.log(zipf(n))}
    return found | {"importance": np.log(importances(n))} if task == "representation" else found


def given(law: dict[str, np.ndarray]) -> np.ndarray:
    """(feature, control): all monomials of the standardised logarithms up to a degree."""
    z = [(own - own.mean()) / own.std() for own in law.values()]
    powers = [p for p in np.ndindex(*[DEGREE + 1] * len(z)) if 0 < sum(p) <= DEGREE]
    return np.stack([np.prod([x**k for x, k in zip(z, p, strict=True)], axis=0) for p in powers], 1)


def study(run: Run) -> Study:
    size = run.sizes(dict(seeds=24, features=128, a=Shape(16, 8), steps=2000, batch=512, facts=2048, memory=Shape(8, 8),
                          memory_steps=2000, memory_batch=256, middle=0.01, wide=2, extend=3, lengths=10,
                          around=(0.8, 0.9, 1.0, 1.1, 1.25)),
                     quick=dict(seeds=10, features=64, a=Shape(8, 4), steps=600, batch=256, facts=512,
                                memory=Shape(8, 4), memory_steps=500, middle=0.02),
                     smoke=dict(seeds=3, features=32, steps=24, batch=64, facts=64, memory_steps=16, memory_batch=64,
                                wide=0.5, extend=0, lengths=2, around=(1.0,)))  # fmt: skip
    options = {"results": run.results, "device": run.device, "workers": run.workers}

    def setting(cell: Cell) -> Setting:
        big, alike, other = cell.model == "A", cell.world == "alike", cell.world == "other"
        if cell.task == "representation":
            shape, n = size.a if big else model_b_of(size.a), size.features
            features = SparseUniform(n, 3.6 / n) if alike else PowerLaw(n, 1.0, 3.6 / n)
            built = Model(UntiedAutoencoder, width=shape.width, depth=shape.depth, hidden=shape.hidden)
            task = Identity(1.0 if alike else importances(n, other))
            return Setting(features, task, built, Adam(beta2=0.99, schedule=Cosine()), size.steps, size.batch)
        shape, n = size.memory if big else model_b_of(size.memory, LABELS), size.facts
        frequency = zipf(n)[np.random.default_rng(0).permutation(n)] if other else zipf(n)
        facts = OnePerGroup(n, 1) if alike else UnequalFacts(n, 1, frequency=frequency)
        built = Model(ResidualMLP, shape=shape, unembedding="coordinates", row_norm=math.sqrt(shape.width))
        data = None if cell.world == "facts" else 7  # labels and batches; without it each network has its own
        return Setting(facts, Memory(LABELS), built, Adam(beta2=0.99, schedule=Cosine()), size.memory_steps,
                       size.memory_batch, data_seed=data)  # fmt: skip

    def seeds(name: str) -> range:
        return range(FIRST_SEED[name], FIRST_SEED[name] + size.seeds)

    begun = Study(
        [Cell(task, model, world) for task in TASKS for model in "AB" for world in ("plain", "alike")],
        lambda cell: Grid(setting(cell), {"seed": seeds(cell.model)}), measures=[loss, scores], snapshots=(0,),
        search=Search(setting, size.middle * 2.0 ** np.arange(-size.wide, size.wide + 1), score=loss, lowest=True,
                      extend=size.extend),
        variants={"half": Variant({"steps": 0.5}, lambda cell: cell.world == "plain")},
    )  # fmt: skip

    @cache
    def first() -> Any:
        return begun.train(**options).trained

    @cache
    def shorter(task: str) -> tuple[str, float, float]:
        """(the model with the lower loss, its learning rate, the steps at which it would have the other's)."""
        rows = first().rows[lambda table: table["task"] == task]
        long, short = models(rows)
        ends, lr = own(rows, long), float(own(rows, short)["lr"].iloc[0])
        full = setting(Cell(task, short)).steps
        lengths = sorted({max(1, round(full / 1.5**k)) for k in range(size.lengths)})
        axes = {"optimizer.lr": [lr], "steps": lengths, "seed": SEARCH_SEEDS}
        name = f"{task}_lengths"
        curve = sweep({name: Grid(setting(Cell(task, short)), axes)}, [loss], **options)[name].table
        curve = curve.groupby("steps")["loss"].mean()
        better = np.maximum.accumulate(-np.log(curve.to_numpy()))
        return short, lr, math.exp(np.interp(-np.log(ends["loss"]).mean(), better, np.log(curve.index)))

    def grid(cell: Cell) -> Grid:
        model, lr, wanted = shorter(cell.task)
        around = size.around if cell.world == "plain" else (1.0,)
        whole = setting(cell._replace(model=model))
        lengths = sorted({min(whole.steps, max(1, round(wanted * factor))) for factor in around})
        own = model if cell.world == "plain" else cell.world
        return Grid(whole, {"optimizer.lr": [lr], "steps": lengths, "seed": seeds(own)})

    same = [Claim("same_features", "both shapes learn the same features: scores agree 9/10 as well as within a shape",
                  "numbers.scores_U", ALIKE, each="{task}_scores_same"),
            Claim("same_geometry", "both shapes carry them in the same way, by CKA", "numbers.CKA_U", ALIKE,
                  each="{task}_CKA_same")]  # fmt: skip
    for name in MEASURES:
        where = {"task": "representation"} if name == "gram" else None
        if name not in ("scores", "CKA"):
            same.append(Claim(f"{name}_same", f"by {name} both shapes are alike in {{task}}", f"numbers.{name}_U",
                              ALIKE, where=where, each=f"{{task}}_{name}_same", combine=None))  # fmt: skip
        same.append(Claim(f"{name}_can_tell", f"by {name} networks of another law are less alike in {{task}}, so that "
                          "it can tell", f"numbers.{name}_U_other", (-math.inf, ALIKE[0]), where=where,
                          each=f"{{task}}_{name}_can_tell", combine=None))  # fmt: skip
    steady = []
    for kind, name in (("half", "length_does_not_decide"), ("full", "matching_does_not_decide")):
        says = {"half": "half the training of both shapes", "full": "full training, at unequal losses,"}[kind]
        both = {one: f"{one}_U_{kind}_minus_equal" for one in ("scores", "CKA")}
        steady += [Check(f"{one}_{name}", f"{says} moves U by less than .1, by {one}", f"numbers.{column}", 0.1)
                   for one, column in both.items()]  # fmt: skip
        steady.append(Check(
            name, f"{says} moves U by less than .1, by scores and CKA", by="task",
            of=lambda numbers, both=both: stats.every(*(stats.decide(numbers[own], 0.1) for own in both.values()))
        ))  # fmt: skip
    return Study(
        [Cell(task, "short", world) for task, more in TASKS.items() for world in ("plain", *more)], grid,
        measures=[loss, scores], given=lambda: [first()],
        findings={
            "pairs": Finding(paired, "task"),
            "agreements": Finding(agreements, "task", variant=None),
            "numbers": Finding(numbers, "task", "{task}_{column}"),
            "training": Finding(training, "task"),
        },
        claims=[
            *same,
            Claim("same_learned_geometry", "they are alike by CKA beyond what untrained networks are",
                  "numbers.CKA_U_above_untrained", ALIKE),
            Claim("law_explains", "given frequency and importance scores agree by less than .1: the law is shared",
                  "numbers.scores_given_law_across", 0.1),
            Claim("facts_do_not_matter", "networks that learned other labels for the same frequencies agree as well",
                  "numbers.scores_U_other_facts", (ALIKE[0], 1.1), where={"task": "memory"}),
            Claim("which_pairs_share_is_luck", "which features lie close to each other is luck, within a shape too",
                  lambda agreements: near_zero(agreements["equal", "gram"]), by="task",
                  where={"task": "representation"}),
            Check("alike_agree_at_zero", "features all alike, where only luck tells them apart, agree at 0",
                  lambda agreements: near_zero(agreements["alike", "scores"]), by="task"),
            Check("losses_equal", "paired losses agree to 1%", "numbers.ln_loss_gap", 0.01),
            *steady, bracketed(where={"model": ["A", "B"]}),
        ],
        draw=draw, answer=answer,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ networks, compared


def own(rows: pd.DataFrame, model: str, world: str = "plain", variant: str = "") -> pd.DataFrame:
    """The networks of one model that did not diverge."""
    same = (rows[["model", "world", "variant"]] == [model, world, variant]).all(axis=1)
    return rows[same & np.isfinite(rows["loss"])]


def models(rows: pd.DataFrame) -> list[str]:
    """A and B, the one with the higher loss first."""
    return sorted("AB", key=lambda model: -own(rows, model)["loss"].mean())


def paired(rows: pd.DataFrame, task: str) -> pd.DataFrame:
    """Rows of `long` and `short` networks and ln of their losses' ratio: each once, losses as near as can be."""
    kind = np.float64 if task == "memory" else np.float32  # as measured: rounding decides among equal matchings
    long, pool = (one.assign(log=np.log(one["loss"].to_numpy(kind))) for one in
                  (own(rows, models(rows)[0]), own(rows, "short")))  # fmt: skip
    gaps = np.abs(pool["log"].to_numpy() - long["log"].to_numpy()[:, None])
    mine = [np.flatnonzero(pool["seed"] == seed) for seed in np.unique(pool["seed"])]
    nearest = np.stack([of[gaps[:, of].argmin(1)] for of in mine], 1)  # (long, seed): the best length
    i, j = linear_sum_assignment(np.take_along_axis(gaps, nearest, 1))
    k = nearest[i, j]
    order = np.argsort(gaps[i, k])
    kept = order[: max(min(ENOUGH, len(order)), int((gaps[i, k] <= 0.01).sum()))]
    long, pool = long.iloc[i[kept]], pool.iloc[k[kept]]
    return pd.DataFrame(
        {"long": long.index, "short": pool.index, "gap": pool["log"].to_numpy() - long["log"].to_numpy()}
    )


def scores_of(features: pd.DataFrame, rows: pd.DataFrame) -> torch.Tensor:
    """(network, feature)."""
    some = features[features["source"].isin(rows["source"])]
    wide = some.pivot(index=["source", "row"], columns="feature", values="scores")
    return torch.tensor(wide.loc[list(zip(rows["source"], rows["row"], strict=True))].to_numpy(np.float64))


def agreements(rows: pd.DataFrame, features: pd.DataFrame, networks: Any, pairs: pd.DataFrame, task: str
               ) -> dict[tuple[str, str], stats.Agreement]:  # fmt: skip
    """(what is compared, measure) -> how alike two ensembles are."""

    def traits(rows: pd.DataFrame, snapshot: int | None = None) -> dict[str, torch.Tensor]:
        """What the measures compare; activations on the same inputs for all."""
        parts, found = [part for _, part in rows.groupby("steps")], {}
        for part in parts:
            trained = networks(part)
            trained = trained if snapshot is None else trained.at(snapshot)
            read = {"of": "neurons", "layer": None} if task == "memory" else {}
            here = {"activations": shared_activations(trained, inputs=x, **read), "units": unit_responses(trained)}
            here |= {"code": directions(trained)} if task == "representation" else {}
            found = {name: [*found.get(name, []), own] for name, own in here.items()}
        place = np.argsort(np.concatenate([rows.index.get_indexer(part.index) for part in parts]))
        found = {name: torch.cat(values)[place] for name, values in found.items()}
        return found if snapshot == 0 else found | {"scores": scores_of(features, rows)}

    def compared(name: str, a: dict, b: dict, untrained: stats.Agreement | None = None) -> stats.Agreement:
        """By one measure, above chance; or above untrained networks of the same shapes, where given."""
        similarity, what, axis = MEASURES[name]
        both = [(a[what], b[what]), (a[what], a[what]), (b[what], b[what])]
        floors = [0.0 if axis is None else chance(similarity, x, y, axis=axis, repeats=2).numpy() for x, y in both]
        if untrained:
            floors = [floor + part.value for floor, part in zip(floors, untrained[1:], strict=True)]
        return stats.agreement(*(similarity(x, y).numpy() for x, y in both), floors=floors)

    x, order = networks(own(rows, "A").iloc[[0]]).batch(0, 2048)[0][0], models(rows)
    a, b = traits(rows.loc[pairs["long"]]), traits(rows.loc[pairs["short"]])
    sets = {"equal": (a, b)} | {world: (a, traits(own(rows, "short", world))) for world in TASKS[task]}
    for name, which in (("full", {}), ("half", {"variant": "half"}), ("alike", {"world": "alike"})):
        sets[name] = tuple(traits(own(rows, model, **which)) for model in order)
    sets["untrained"] = tuple(traits(own(rows, model), 0) for model in order)
    found = {(kind, name): compared(name, x, y) for kind, (x, y) in sets.items() for name, (_, what, _) in
             MEASURES.items() if what in x and name in SHOWN.get(kind, MEASURES)}  # fmt: skip
    found |= {("above untrained", name): compared(name, a, b, floor) for (kind, name), floor in found.items()
              if kind == "untrained"}  # fmt: skip
    whole, both = law(task, a["scores"].shape[1]), ((a["scores"], b["scores"]), (a["scores"],) * 2, (b["scores"],) * 2)
    for name, known in (("frequency", {"frequency": whole["frequency"]}), ("law", whole)):
        alike = [feature_correlation(x, y, given=given(known)).numpy() for x, y in both]
        found[f"given {name}", "scores"] = stats.agreement(*alike)
    return found


def near_zero(found: stats.Agreement) -> stats.Verdict:
    """Across and within."""
    return stats.every(*(stats.decide(part, 0.05) for part in found[1:]))


def numbers(rows: pd.DataFrame, features: pd.DataFrame, agreements: dict, pairs: pd.DataFrame, task: str
            ) -> dict[str, stats.Interval]:  # fmt: skip
    """What is claimed, by name."""
    out = {}
    for (kind, name), one in agreements.items():
        if kind == "equal":
            out |= {f"{name}_U": one.u} | {f"{name}_{part}": getattr(one, part) for part in one._fields[1:]}
        elif kind in ("other", "above untrained"):
            out[f"{name}_U_{kind.replace(' ', '_')}"] = one.u
        elif kind.startswith("given"):
            out |= {f"scores_{kind.replace(' ', '_')}_across": one.across, f"scores_{kind.replace(' ', '_')}_U": one.u}
        elif kind in ("half", "full"):
            new, old = one.u, agreements["equal", name].u.value
            moved = stats.Interval(new.value - old, new.low - old, new.high - old)
            out[f"{name}_U_{kind}_minus_equal"] = moved if math.isfinite(moved.value) else stats.UNDEFINED
        elif kind == "facts":
            out["scores_U_other_facts"] = one.u
    both = torch.cat([scores_of(features, rows.loc[pairs[side]]) for side in ("long", "short")])
    whole = law(task, both.shape[1])
    for name, known in {**{name: {name: values} for name, values in whole.items()}, "law": whole}.items():
        out[f"explained_by_{name}"] = stats.mean(explained(both, given(known)))
    return out | {"ln_loss_gap": stats.mean(pairs["gap"])}


def training(rows: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, Any]:
    ends = {f"loss_of_{model}": own(rows, model)["loss"].mean() for model in "AB"}
    return {"cut_short": models(rows)[1], "steps": own(rows, "short", "other")["steps"].iloc[0], "pairs": len(pairs),
            "widest_gap": pairs["gap"].abs().max(), "loss": rows.loc[pairs["long"], "loss"].mean(), **ends}  # fmt: skip


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
    colours = plots.category_colours(
        ["same shape, other seed", "other shape, equal loss", "other shape, other law", "other shape, untrained"]
    )
    for (dots, bars, left), task in zip(axes, TASKS, strict=True):
        found = agreements[task]
        means = [scores_of(features, rows.loc[pairs[task][side]]).mean(0) for side in ("long", "short")]
        long, short = models(rows[rows["task"] == task])
        frequency = law(task, len(means[0]))["frequency"] / math.log(10)
        dots.scatter(*means, c=frequency, s=12, cmap="viridis", rasterized=True)
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
        told = {"as they are": "equal", "given frequency": "given frequency",
                "given frequency\nand importance": "given law" if task == "representation" else "",
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
