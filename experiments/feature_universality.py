"""Do a deep and a wide network of equal parameters and equal loss learn the same features?

Katta's contradiction (2024) assumes that equally good models learn the same features. Model A = (d, L) and Model
B = (2d, L/4) learn one world: `representation`, 128 sparse features with Zipf frequencies p_i and log-normal
importances I_i drawn independently of them; `memory`, 2,048 facts with Zipf frequencies, one at a time. Each shape is
trained at its own learning rate; the shape with the lower loss is then trained for fewer steps, at several lengths, and
networks are paired one to one so that the losses of each pair agree to 1% (the pairs that do, or the 20 nearest).

Similarities of two networks: `scores`, Spearman's correlation over true features of R^2_i (of the bits of fact i,
exact); `CKA` (debiased) and `SVCCA` of hidden activations on shared held-out draws (the code; in memory all neurons);
`units`, neurons pulled back to truth coordinates and matched (Hungarian); `gram`, W_i . W_j of the code. U = (across -
floor) / (ceiling - floor), ceiling = same shape, other seed (geometric mean over the shapes), floor = features or
samples shuffled. Intervals by bootstrap over networks, for this one world. Across shapes SVCCA and `units` match what
is smaller with more than either meets within its shape, so there U can exceed 1 for that reason alone.

Rules. `same`: U above .9. A measure `can_tell` if U is below .9 for networks of the same shapes that had other
importances (or frequencies of facts) on the same features: where it cannot, its `same` means little. `same_features`:
scores in both tasks; `same_geometry`: CKA in both, and `same_learned_geometry` if the floor is that of untrained
networks of the same shapes (random codes of the same data are alike already). What is shared is the world's law if the
partial correlation of scores across shapes, given polynomials of log p and log I up to degree 4, is within .1 of 0
(`law_explains`), and `facts_do_not_matter` if networks that learned other labels for the same frequencies agree as
well, U in .9 to 1.1: had features more in common than their law, both would fail. `which_pairs_share_is_luck`: gram
within .05 of 0, across and within. Controls: features that are all alike (uniform p, I), where nothing but luck tells
one from another, must agree at 0 within .05; U may not move by .1 at half the training of both shapes
(`length_does_not_decide`) or at full training and unequal losses (`matching_does_not_decide`), by scores and by CKA;
the default run left these undecided for CKA's sake, so each measure's verdict is given too.

Thresholds were set after a pilot of 4 networks on other seeds; untrained floors were added after a --quick run. Two
cores: --quick about a minute, default about 5.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm

from toysup import plots, report, stats
from toysup.checks import check_interval
from toysup.ensemble import Trained
from toysup.features import OnePerGroup, PowerLaw, SparseUniform
from toysup.features.base import as_tensor
from toysup.measure import directions, fact_bits, held_out_loss, r_squared
from toysup.measure.universality import shared_activations, unit_responses
from toysup.models import ResidualMLP, UntiedAutoencoder
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.shapes import Shape, model_b_of
from toysup.similarity import chance, explained, feature_correlation, gram_similarity, linear_cka, matched_cosine, svcca
from toysup.sweep import Grid, Results, sweep
from toysup.tasks import Identity, Memory

QUESTION = "Do a deep and a wide network of equal parameters and equal loss learn the same features?"
LABELS, ENOUGH, SAME, DEGREE = 4, 20, 0.9, 4
FIRST_SEED = {"A": 0, "B": 100, "other": 200, "facts": 300}  # no two networks share a start
# name -> (similarity, what it compares, the axis that is shuffled for the floor; None: the floor is 0 by construction)
MEASURES = {"scores": (feature_correlation, "scores", None), "CKA": (linear_cka, "activations", None),
            "SVCCA": (svcca, "activations", 1), "units": (matched_cosine, "units", -1),
            "gram": (gram_similarity, "code", None)}  # fmt: skip
SHOWN = {"full": ("scores", "CKA"), "half": ("scores", "CKA"), "alike": ("scores",), "facts": ("scores",)}


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


def exact_loss(trained: Trained) -> torch.Tensor:
    """Cross-entropy over all facts by their frequencies, (instance,)."""
    lost = 1 - fact_bits(trained).double()
    return math.log(LABELS) * (lost * trained.setting.features.activity.double()).sum(1)


class World(NamedTuple):
    """A task: settings by (model, kind); the logarithms of what features differ in; its loss and its scores."""

    name: str
    setting: Callable[[str, str], Setting]
    law: dict[str, np.ndarray]
    loss: Callable[[Trained], Any]
    scores: Callable[[Trained], Any]
    read: dict[str, Any]  # which activations
    kinds: tuple[str, ...]


def zipf(n: int) -> np.ndarray:
    return 1 / np.arange(1, n + 1)


def representation(run: report.Run) -> World:
    n, a = run.pick(default=128, quick=64, smoke=32), run.pick(default=Shape(16, 8), quick=Shape(8, 4))
    density, normal = 3.6 / n, norm.ppf((np.arange(n) + 0.5) / n)
    importance = {
        kind: np.exp(np.random.default_rng(s).permutation(normal)) for s, kind in enumerate(("plain", "other"))
    }
    steps, batch = run.pick(default=2000, quick=600, smoke=24), run.pick(default=512, quick=256, smoke=64)

    def setting(model: str, kind: str) -> Setting:
        shape = a if model == "A" else model_b_of(a)
        alike = kind == "alike"
        features = SparseUniform(n, density) if alike else PowerLaw(n, 1.0, density)
        built = Model(UntiedAutoencoder, width=shape.width, depth=shape.depth, hidden=shape.hidden)
        task = Identity(1.0 if alike else importance[kind])
        return Setting(features, task, built, Adam(beta2=0.99, schedule=Cosine()), steps, batch)

    law = {"frequency": np.log(zipf(n)), "importance": np.log(importance["plain"])}
    return World("representation", setting, law, held_out_loss, r_squared, {}, ("other",))


def memory(run: report.Run) -> World:
    n, a = run.pick(default=2048, quick=512, smoke=64), run.pick(default=Shape(8, 8), quick=Shape(8, 4))
    order = np.random.default_rng(0).permutation(n)
    steps, batch = run.pick(default=2000, quick=500, smoke=16), run.pick(default=256, smoke=64)

    def setting(model: str, kind: str) -> Setting:
        shape = a if model == "A" else model_b_of(a, LABELS)
        frequency = zipf(n)[order] if kind == "other" else zipf(n)
        facts = OnePerGroup(n, 1) if kind == "alike" else UnequalFacts(n, 1, frequency=frequency)
        built = Model(ResidualMLP, shape=shape, unembedding="coordinates", row_norm=math.sqrt(shape.width))
        data = None if kind == "facts" else 7  # labels and batches; without it each network has its own
        return Setting(facts, Memory(LABELS), built, Adam(beta2=0.99, schedule=Cosine()), steps, batch, data_seed=data)

    read = {"of": "neurons", "layer": None}
    return World("memory", setting, {"frequency": np.log(zipf(n))}, exact_loss, fact_bits, read, ("other", "facts"))


def controls_of(law: dict[str, np.ndarray], degree: int) -> np.ndarray:
    """(feature, control): all monomials of the standardised logarithms up to a degree."""
    z = [(own - own.mean()) / own.std() for own in law.values()]
    powers = [p for p in np.ndindex(*[degree + 1] * len(z)) if 0 < sum(p) <= degree]
    return np.stack([np.prod([x**k for x, k in zip(z, p, strict=True)], axis=0) for p in powers], 1)


# -------------------------------------------------------------------------------------------------------- networks


def traits(
    world: World, x: torch.Tensor, answer: Results, rows: np.ndarray, snapshot: int | None = None
) -> dict[str, torch.Tensor]:
    """What the measures compare, of the networks in some rows of a sweep's table; activations on inputs x."""
    found: dict[str, list] = {"activations": [], "units": [], "code": []}
    order = []
    for trained in answer:
        order.append(trained.rows)
        trained = trained if snapshot is None else trained.at(snapshot)
        found["activations"].append(shared_activations(trained, inputs=x, **world.read))
        found["units"].append(unit_responses(trained))
        if world.name == "representation":
            found["code"].append(directions(trained))
    place = np.argsort(np.concatenate(order))[rows]
    answers = {name: torch.cat(values)[place] for name, values in found.items() if values}
    if snapshot is None:
        column = world.scores.__name__
        scores = answer.features.pivot(index="row", columns="feature", values=column).loc[rows]
        answers["scores"] = torch.tensor(scores.to_numpy(np.float64))
    return answers


def rows_of(world: World, answer: Results, steps: int) -> np.ndarray:
    """Rows of the networks that were trained for so long and did not diverge."""
    table = answer.table
    return table.index[(table["steps"] == steps) & np.isfinite(table[world.loss.__name__])].to_numpy()


def compared(name: str, a: dict, b: dict, untrained: stats.Agreement | None = None) -> stats.Agreement:
    """Two ensembles by one measure, above chance; or above untrained networks of the same shapes, where given."""
    similarity, what, axis = MEASURES[name]
    pairs = [(a[what], b[what]), (a[what], a[what]), (b[what], b[what])]
    floors = [0.0 if axis is None else chance(similarity, x, y, axis=axis, repeats=2).numpy() for x, y in pairs]
    if untrained:
        floors = [floor + part.value for floor, part in zip(floors, untrained[1:], strict=True)]
    return stats.agreement(*(similarity(x, y).numpy() for x, y in pairs), floors=floors)


def paired(world: World, long: pd.DataFrame, pool: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows of long, rows of pool, ln of their losses' ratio): each network once, losses as near as can be."""
    log = {name: np.log(own[world.loss.__name__].to_numpy()) for name, own in (("long", long), ("pool", pool))}
    gaps = np.abs(log["pool"] - log["long"][:, None])
    seeds = pool["seed"].to_numpy()
    mine = [np.flatnonzero(seeds == seed) for seed in np.unique(seeds)]
    nearest = np.stack([own[gaps[:, own].argmin(1)] for own in mine], 1)  # (long, seed): the best length
    i, j = linear_sum_assignment(np.take_along_axis(gaps, nearest, 1))
    k = nearest[i, j]
    order = np.argsort(gaps[i, k])
    kept = order[: max(min(ENOUGH, len(order)), int((gaps[i, k] <= 0.01).sum()))]
    return long.index[i[kept]].to_numpy(), pool.index[k[kept]].to_numpy(), log["pool"][k[kept]] - log["long"][i[kept]]


def study(run: report.Run, world: World) -> dict[str, Any]:
    """All networks of one task, and how similar they are."""
    options = {"results": run.results, "device": run.device, "workers": run.workers}
    count, loss = run.pick(default=24, quick=10, smoke=3), world.loss.__name__
    measures = [world.loss, world.scores]

    def seeds(model: str) -> range:
        return range(FIRST_SEED[model], FIRST_SEED[model] + count)

    search = {f"{world.name}_{model}_{kind}": Grid(world.setting(model, kind), {"seed": SEARCH_SEEDS})
              for model in "AB" for kind in ("plain", "alike")}  # fmt: skip
    middle, wide = run.pick(default=0.01, quick=0.02), run.pick(default=2, smoke=0.5)
    rates = best_rates(search, middle * 2.0 ** np.arange(-wide, wide + 1), score=world.loss, lowest=True,
                       extend=run.pick(default=3, smoke=0), **options)  # fmt: skip

    def grid(model: str, kind: str, lengths: list[int], own: range) -> Grid:
        searched = kind if kind == "alike" else "plain"
        lr = float(rates.loc[f"{world.name}_{model}_{searched}", "lr"])
        return Grid(world.setting(model, kind), {"optimizer.lr": [lr], "steps": lengths, "seed": own})

    full = world.setting("A", "plain").steps
    grids = {f"{world.name}_{m}_{kind}_full": grid(m, kind, [full, full // 2] if kind == "plain" else [full], seeds(m))
             for m in "AB" for kind in ("plain", "alike")}  # fmt: skip
    answers = sweep(grids, measures, snapshots=(0,), **options)
    plain, alike = ({m: answers[f"{world.name}_{m}_{kind}_full"] for m in "AB"} for kind in ("plain", "alike"))
    ends = {m: plain[m].table.loc[rows_of(world, plain[m], full)] for m in "AB"}
    long, short = sorted("AB", key=lambda m: -ends[m][loss].mean())

    lengths = sorted({max(1, round(full / 1.5**k)) for k in range(run.pick(default=10, smoke=2))})
    curve = sweep({f"{world.name}_lengths": grid(short, "plain", lengths, SEARCH_SEEDS)}, [world.loss], **options)
    curve = curve[f"{world.name}_lengths"].table.groupby("steps")[loss].mean()
    better = np.maximum.accumulate(-np.log(curve.to_numpy()))
    wanted = math.exp(np.interp(-np.log(ends[long][loss]).mean(), better, np.log(curve.index)))
    around = sorted(
        {min(full, max(1, round(wanted * f))) for f in run.pick(default=(0.8, 0.9, 1.0, 1.1, 1.25), smoke=(1.0,))}
    )
    chosen = min(full, max(1, round(wanted)))
    grids = {f"{world.name}_pool": grid(short, "plain", around, seeds(short))}
    grids |= {f"{world.name}_{kind}": grid(short, kind, [chosen], seeds(kind)) for kind in world.kinds}
    more = sweep(grids, measures, **options)
    pool = more[f"{world.name}_pool"]
    finite = np.isfinite(pool.table[loss])
    rows, partners, gaps = paired(world, ends[long], pool.table[finite])

    x = plain["A"].trained(rows=[0]).batch(0, 2048)[0][0]  # the same for all
    a, b = traits(world, x, plain[long], rows), traits(world, x, pool, partners)
    sets = {"equal": (a, b)}
    for name, steps in (("full", full), ("half", full // 2)):
        sets[name] = tuple(traits(world, x, plain[m], rows_of(world, plain[m], steps)) for m in (long, short))
    for kind in world.kinds:
        own = more[f"{world.name}_{kind}"]
        sets[kind] = a, traits(world, x, own, rows_of(world, own, chosen))
    sets["untrained"] = tuple(traits(world, x, plain[m], ends[m].index.to_numpy(), 0) for m in (long, short))
    sets["alike"] = tuple(traits(world, x, alike[m], rows_of(world, alike[m], full)) for m in (long, short))
    found = {kind: {name: compared(name, x, y) for name, (_, what, _) in MEASURES.items()
                    if what in x and name in SHOWN.get(kind, MEASURES)} for kind, (x, y) in sets.items()}  # fmt: skip
    found["above_untrained"] = {name: compared(name, a, b, floor) for name, floor in found["untrained"].items()}
    given = {
        "frequency": controls_of({"frequency": world.law["frequency"]}, DEGREE),
        "law": controls_of(world.law, DEGREE),
    }
    scores = ((a["scores"], b["scores"]), (a["scores"],) * 2, (b["scores"],) * 2)
    found["given"] = {name: stats.agreement(*(feature_correlation(x, y, given=own).numpy() for x, y in scores))
                      for name, own in given.items()}  # fmt: skip
    both = torch.cat([a["scores"], b["scores"]])
    shares = {name: stats.mean(explained(both, controls_of({name: own}, DEGREE))) for name, own in world.law.items()}
    shares["law"] = stats.mean(explained(both, given["law"]))
    every = [*answers.values(), *more.values()]
    table = {"rates": rates[["lr", "bracketed"]].to_dict("index"), "cut_short": short, "steps": chosen,
             "pairs": len(gaps), "widest_gap": float(np.abs(gaps).max()), "loss": ends[long].loc[rows, loss].mean(),
             "loss_at_full_training": {m: ends[m][loss].mean() for m in "AB"}}  # fmt: skip
    return {"found": found, "explained": shares, "gap": stats.mean(gaps), "control": table, "answers": every,
            "means": (a["scores"].mean(0), b["scores"].mean(0)), "long": long, "short": short,
            "bracketed": bool(rates["bracketed"].all()), "world": world}  # fmt: skip


def shift(new: stats.Interval, old: stats.Interval) -> stats.Interval:
    """How far an interval lies from another's value."""
    if not math.isfinite(new.value - old.value):
        return stats.UNDEFINED
    return stats.Interval(new.value - old.value, new.low - old.value, new.high - old.value)


def main(run: report.Run) -> None:
    studies = {world.name: study(run, world) for world in (representation(run), memory(run))}
    statistics, verdict, controls = {}, {}, {}
    said: dict[str, list] = defaultdict(list)
    for task, one in studies.items():
        found = one["found"]
        for name, equal in found["equal"].items():
            statistics[f"{task}_{name}_U"] = equal.u
            statistics |= {f"{task}_{name}_{part}": getattr(equal, part) for part in ("across", "within_a", "within_b")}
            statistics[f"{task}_{name}_U_other"] = found["other"][name].u
            if name in found["untrained"]:
                statistics[f"{task}_{name}_U_above_untrained"] = found["above_untrained"][name].u
            verdict[f"{task}_{name}_same"] = stats.decide(equal.u, (SAME, math.inf))
            verdict[f"{task}_{name}_can_tell"] = stats.decide(found["other"][name].u, (-math.inf, SAME))
            controls[f"{task}_{name}"] = {kind: found[kind][name]._asdict() for kind in found
                                          if kind != "given" and name in found[kind]}  # fmt: skip
        for name, left in found["given"].items():
            statistics[f"{task}_scores_given_{name}_across"] = left.across
            statistics[f"{task}_scores_given_{name}_U"] = left.u
        statistics |= {f"{task}_explained_by_{name}": share for name, share in one["explained"].items()}
        statistics[f"{task}_ln_loss_gap"] = one["gap"]
        controls[f"{task}_training"] = one["control"]
        said["same_features"].append(verdict[f"{task}_scores_same"])
        said["same_geometry"].append(verdict[f"{task}_CKA_same"])
        said["same_learned_geometry"].append(stats.decide(found["above_untrained"]["CKA"].u, (SAME, math.inf)))
        said["law_explains"].append(stats.decide(found["given"]["law"].across, 0.1))
        said["losses_equal"].append(stats.decide(one["gap"], 0.01))
        if "gram" in found["equal"]:
            luck = stats.every(*(stats.decide(part, 0.05) for part in found["equal"]["gram"][1:]))
            verdict["which_pairs_share_is_luck"] = luck
        alike = found["alike"]["scores"]
        said["alike_agree_at_zero"] += [stats.decide(part, 0.05) for part in alike[1:]]
        for claim, kind in (("length_does_not_decide", "half"), ("matching_does_not_decide", "full")):
            for name in ("scores", "CKA"):
                moved = shift(found[kind][name].u, found["equal"][name].u)
                statistics[f"{task}_{name}_U_{kind}_minus_equal"] = moved
                said[claim].append(stats.decide(moved, 0.1))
                said[f"{name}_{claim}"].append(said[claim][-1])
    facts = statistics["memory_scores_U_other_facts"] = studies["memory"]["found"]["facts"]["scores"].u
    verdict |= {claim: stats.every(*verdicts) for claim, verdicts in said.items()}
    verdict["facts_do_not_matter"] = stats.decide(facts, (SAME, 1.1))
    bracketed = all(one["bracketed"] for one in studies.values())
    verdict["learning_rate_bracketed"] = "supported" if bracketed else "undecided"
    answers = [answer for one in studies.values() for answer in one["answers"]]
    engine = ", ".join(sorted({name for answer in answers for name in answer.table["engine"]}))
    report.write(run, draw(studies), statistics=statistics, verdict=verdict, controls=controls, engine=engine,
                 instances=sum(len(answer.grid) for answer in answers), steps=answers[0].grid.setting.steps,
                 seconds=sum(answer.seconds for answer in answers))  # fmt: skip


def draw(studies: dict[str, dict]) -> plots.Figure:
    """Scores of A against B; similarities by measure beside their ceilings; what is left of the agreement."""
    figure, axes = plots.figure(2, 3, width=13, height=4.4, width_ratios=[1, 1.5, 1.1])
    kinds = ["same shape, other seed", "other shape, equal loss", "other shape, other law", "other shape, untrained"]
    colours = plots.category_colours(kinds)
    for (scatter, bars, left), (task, one) in zip(axes, studies.items(), strict=True):
        found, score = one["found"], "R$^2$" if task == "representation" else "bits / 2"
        means = dict(zip((one["long"], one["short"]), one["means"], strict=True))
        dots = scatter.scatter(means["A"], means["B"], c=one["world"].law["frequency"] / math.log(10), s=12,
                               cmap="viridis", rasterized=True)  # fmt: skip
        ends = [float(min(own.min() for own in means.values())), 1.0]
        scatter.plot(ends, ends, color=plots.GREY, linestyle="--", linewidth=1, zorder=0)
        figure.colorbar(dots, ax=scatter, label="log$_{10}$ of frequency, first = 0")
        scatter.set(xlabel=f"{score} of a feature in A", ylabel="in B, at equal loss", title=f"{task}: a dot a feature")
        equal = found["equal"]
        for at, (name, own) in enumerate(equal.items()):
            shown = [(-0.34, own.within_a, 0), (-0.26, own.within_b, 0), (-0.1, own.across, 1),
                     (0.1, found["other"][name].across, 2)]  # fmt: skip
            shown += [(0.3, found["untrained"][name].across, 3)] if name in found["untrained"] else []
            for x, similar, kind in shown:
                interval(bars, at + x, similar, colours[kinds[kind]])
            top = max(similar.high for _, similar, _ in shown if math.isfinite(similar.high))
            text = f"U = {own.u.value:.2f}" if math.isfinite(own.u.value) else "no\nceiling"
            bars.annotate(text, (at, top), (0, 5), textcoords="offset points", ha="center", fontsize=10)
        bars.axhline(0, color=plots.GREY, linestyle=":", linewidth=1.2)
        for kind, colour in colours.items():
            bars.plot([], [], "o", color=colour, label=kind)
        bars.set_xticks(range(len(equal)), equal)
        low, high = bars.get_ylim()
        bars.set(ylabel="similarity above chance", ylim=(low, high + 0.1 * (high - low)),
                 title=f"{task}: U, other shape over same shape")  # fmt: skip
        names = {"as they are": equal["scores"].across, "given frequency": found["given"]["frequency"].across}
        if "importance" in one["world"].law:
            names["given frequency\nand importance"] = found["given"]["law"].across
        if "facts" in found:
            names["other facts,\nsame frequencies"] = found["facts"]["scores"].across
        names["features all alike"] = found["alike"]["scores"].across
        for at, own in enumerate(names.values()):
            interval(left, own, -at, "black", sideways=True)
        ceiling = math.sqrt(max(equal["scores"].within_a.value * equal["scores"].within_b.value, 0))
        for x, said, style in ((ceiling, "same shape,\nother seed", "--"), (0, "chance", ":")):
            left.axvline(x, color=plots.GREY, linestyle=style, linewidth=1.2, zorder=0)
            left.annotate(said, (x, 0.4), ha="center", fontsize=9.5, color=plots.GREY,
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
        low, high = left.get_xlim()
        left.set_xlim(low - 0.15 * (high - low), high + 0.05 * (high - low))
        left.set_yticks([-at for at in range(len(names))], names)
        left.set(xlabel="correlation of scores, A with B", ylim=(-len(names) + 0.5, 1.0),
                 title=f"{task}: what they share")  # fmt: skip
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=10)
    us = {name: " and ".join(f"{one['found']['equal'][name].u.value:.2f}" for one in studies.values())
          for name in ("scores", "CKA")}  # fmt: skip
    rest = max(abs(one["found"]["given"]["law"].across.value) for one in studies.values())
    figure.suptitle(
        f"A and B at equal loss: which features they learn agrees {us['scores']} times as well as between seeds of one "
        f"shape\n(r at most {rest:.2f} beyond frequency and importance); how units carry them (CKA), {us['CKA']} times"
    )
    return figure


def interval(ax: plots.Axes, x: Any, y: Any, colour: Any, *, sideways: bool = False) -> None:
    """A dot with its interval; the one of x and y that is an Interval runs along its axis."""
    own, at = (x, y) if sideways else (y, x)
    reach = [[max(own.value - own.low, 0)], [max(own.high - own.value, 0)]]
    reach = reach if np.isfinite(reach).all() else None
    ax.errorbar(*((own.value, at) if sideways else (at, own.value)), fmt="o", color=colour, markersize=5, capsize=2,
                **{"xerr" if sideways else "yerr": reach})  # fmt: skip


if __name__ == "__main__":
    report.experiment(main)
