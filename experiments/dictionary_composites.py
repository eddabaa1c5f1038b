"""Does a sparse autoencoder prefer A&B, A&!B and !A&B to A and B, and does training find what it prefers?

A comment on Katta's note (2024) holds that a dictionary need not show the features, because the sparsity penalty itself
prefers composites. For two binary features along orthonormal directions the table is exact (THEORY.md 7,
`theory.pair_dictionaries`): [A, B] has L0 = L1 = p + q; [A&B, A&!B, !A&B] has L0 = p + q - r and L1 = p + q -
(2 - sqrt 2) r, r = P(A&B), and no error either. An L1 penalty c makes it cheaper by r ((2 - sqrt 2) c - c^2 / 4).

Trained dictionaries without decoder bias (so that the table is exact) over latents H, p, q, r, penalty and its
coefficient, 128 seeds each; four kinds: L1, L0 (JumpReLU), TopK with k = 1 and k = 2. Their firing is read off the
three states exactly. A `conjunction` is a latent that is on for A&B and for neither alone.

The table predicts composites at any p, q, r > 0 and any coefficient (L1 below 2, L0 below 1) once there are three
latents, TopK: if k = 1; two latents keep [A, B] unless r is large. Magnitudes U(1 - s, 1 + s) cost a single A&B latent
an error of r s^2 / 3, so its gain under L1 ends at s* = sqrt(3 ((2 - sqrt 2) c - c^2 / 4)).

Rules. `table_KIND`: the exact optimum is composite in every cell with H >= 3. `trained_KIND`: at H = 8, p = q = .2,
independent, more than half of the seeds have a conjunction. `spare_latents`: at H = 2 fewer than 5% do (L1, L0, TopK
k = 2), and with L1 more at H = 16 than at H = 3. `penalty_drives_L1`: at least .2 more seeds have one with the base
coefficient than with none. `graded_features_stop_L1`: at s = 1 fewer than half as many as at s = 0. Controls that can
fail: `table_is_a_bound` (no binary dictionary is below the table's best loss by more than .1%); `rate_does_not_decide`
and `length_does_not_decide` (at half and twice the learning rate, and at half the steps, the share moves by less than
.2, L1); no penalty. Added after a first run, in which length did decide and TopK had conjunctions before training: L1
and L0 at up to 8 times the steps, and `training_makes_them_KIND` (at H = 8 more seeds have one than before training).

Two cores: --quick about a minute (not timed alone), default about 6.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from toysup import plots, report, stats
from toysup.checks import check_interval
from toysup.ensemble import Trained
from toysup.features import Features
from toysup.features.base import as_tensor
from toysup.models import L1, Embedding, JumpReLU, SparseAutoencoder, TopK
from toysup.search import best_rates
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, sweep
from toysup.tasks import Reconstruction
from toysup.theory import PairDictionary, pair_dictionaries

QUESTION = "Do sparse autoencoders replace two features by their conjunctions, as their penalties prefer?"
KINDS = {"L1": L1(), "L0": JumpReLU(0.3, 0.5), "TopK 1": TopK(1), "TopK 2": TopK(2)}
PENALTY = {"L1": 0.1, "L0": 0.03, "TopK 1": 0.0, "TopK 2": 0.0}
COEFFICIENTS = {"L1": [0.0, 0.01, 0.03, 0.3, 1.0], "L0": [0.0, 0.003, 0.01, 0.1, 0.3]}
STATES = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
AXES = ("features.p", "features.q", "features.both", "features.spread", "task.penalty", "optimizer.lr")
ON = 0.01  # contribution of a latent that counts as on, in units of a feature
P, LATENTS = 0.2, 8  # the base


@dataclass(frozen=True)
class Pair(Features):
    """Two features with P(A) = p, P(B) = q, P(A and B) = both, and magnitudes U(1 - spread, 1 + spread)."""

    n_features: int = 2
    p: float = P
    q: float = P
    both: float = P * P
    spread: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("p", "q", "both", "spread"):
            self._check_float(name, open_low=False)
        check_interval("Pair", "both", self.both, max(0.0, self.p + self.q - 1), min(self.p, self.q))

    @property
    def n_uniforms(self) -> int:
        return 3

    @property
    def activity(self) -> Tensor:
        return torch.stack([as_tensor(self.p), as_tensor(self.q)])

    @property
    def mean(self) -> Tensor:
        return self.activity

    @property
    def second_moment(self) -> Tensor:
        return self.activity * (1 + as_tensor(self.spread) ** 2 / 3)

    @property
    def chances(self) -> Tensor:
        """Of the STATES."""
        p, q, both = (as_tensor(v) for v in (self.p, self.q, self.both))
        return torch.stack([1 - p - q + both, p - both, q - both, both])

    def transform(self, uniforms: Tensor) -> Tensor:
        p, q, both, spread = (as_tensor(v, uniforms) for v in (self.p, self.q, self.both, self.spread))
        u = uniforms[..., :1]
        on = torch.cat([u < p, (u < both) | ((u >= p) & (u < p + q - both))], -1)
        return torch.where(on, 1 + spread * (2 * uniforms[..., 1:] - 1), 0.0)


class States:
    """What each dictionary does in the three states A only, B only, both (magnitudes 1), and its exact loss there."""

    def __init__(self, trained: Trained) -> None:
        W = trained.constants["weights"].view(len(trained), 2, 2)
        h = torch.tensor(STATES) @ W
        code = trained.forward(h)
        chance = trained.per_instance(lambda s, _: s.features.chances)
        penalty = trained.per_instance(lambda s, _: as_tensor(s.task.penalty))
        self.loss = (((h - code.reconstruction).square().sum(-1) + penalty[:, None] * code.cost) * chance).sum(-1)
        self.on = (code.latents * code.decoder.norm(dim=1)[:, None] > ON)[:, 1:]  # instance state latent
        self.alone = self.on & (self.on.sum(1, keepdim=True) == 1)


def conjunction(trained: Trained) -> Tensor:
    """1 where a latent is on for A&B and for neither alone."""
    return States(trained).alone[:, 2].any(-1).float()


def composite(trained: Trained) -> Tensor:
    """1 where every state has latents of its own and no others."""
    found = States(trained)
    return (found.alone.any(-1).all(-1) & (found.alone == found.on).all(-1).all(-1)).float()


def separate(trained: Trained) -> Tensor:
    """1 where no latent is on in one state only, and both features are seen."""
    found = States(trained)
    seen = found.on[:, :2].any(-1).all(-1)
    return (seen & ~found.alone.any(-1).any(-1)).float()


def live(trained: Trained) -> Tensor:
    """Latents on in any state."""
    return States(trained).on.any(1).sum(-1).float()


def exact_loss(trained: Trained) -> Tensor:
    """Expected loss over the four states (binary features)."""
    return States(trained).loss


def untrained(trained: Trained) -> Tensor:
    """`conjunction` before training."""
    return conjunction(trained.at(0))


@cache
def table(kind: str, p: float, q: float, both: float, penalty: float, latents: int = 3) -> list[PairDictionary]:
    """The exact dictionaries of one cell, best first."""
    name, _, k = kind.partition(" ")
    return pair_dictionaries(p, q, both, kind=name.lower(), penalty=penalty, latents=latents, k=int(k or 1))


def gain(row: pd.Series) -> tuple[float, float]:
    """(loss of [A, B], loss of the composites) in a row's cell."""
    by_name = {one.directions: one.loss for one in table(row.kind, row.p, row.q, row.both, row.penalty)}
    return by_name["A", "B"], by_name["A", "B", "A+B"]


def cells(kind: str, latents: int, lr: float) -> list[tuple[float, ...]]:
    """What varies inside a stack, one row per cell in the order of AXES; the first is the base."""
    c = PENALTY[kind]
    rows = [(P, P, P * P, 0.0, c, lr)]
    if latents == LATENTS:
        rows += [(P, P, P * given, 0.0, c, lr) for given in (0.05, 0.5, 0.9)]
        rows += [(P, P, P * P, s, c, lr) for s in (0.25, 0.5, 0.75, 1.0)]
    if latents == LATENTS and kind in COEFFICIENTS:
        rows += [(P, P, P * P, 0.0, other, lr) for other in COEFFICIENTS[kind]]
        values = (0.05, 0.1, P, 0.4)
        rows += [(p, q, p * q, 0.0, c, lr) for i, q in enumerate(values) for p in values[i:] if (p, q) != (P, P)]
        rows += [(P, P, P * P, 0.0, c, lr * factor) for factor in (0.5, 2.0)]
    return rows


def setting_of(kind: str, latents: int, run: report.Run, lr: float = 0.01) -> Setting:
    """The base setting of one kind with as many latents."""
    model = Model(SparseAutoencoder, latents=latents, sparsity=KINDS[kind], centred=False)
    task = Reconstruction(Model(Embedding, width=2, orthonormal=True), penalty=PENALTY[kind])
    steps = run.pick(default=1500, quick=750, smoke=4)
    return Setting(Pair(), task, model, Adam(lr, beta2=0.99, schedule=Cosine()), steps, run.pick(default=128, smoke=16))


def run_all(run: report.Run) -> tuple[pd.DataFrame, pd.DataFrame, str, float]:
    """Every dictionary, one row each: cell, kind, latents, what it does; the learning rates; engines and seconds."""
    options: dict[str, Any] = {"results": run.results, "device": run.device, "workers": run.workers}
    seeds = range(run.pick(default=128, quick=24, smoke=3))
    counts = run.pick(default=[2, 3, 4, LATENTS, 16], quick=[2, LATENTS])
    held = range(1000, 1000 + run.pick(default=32, quick=8, smoke=2))  # one pair varies more than a large network
    search = {kind: Grid(setting_of(kind, LATENTS, run), {"seed": held}) for kind in KINDS}
    rates = best_rates(search, run.pick(default=[0.005, 0.01, 0.02], quick=[0.01, 0.02]), score=exact_loss, lowest=True,
                       extend=run.pick(default=3, quick=0), **options)  # fmt: skip
    grids = {}
    for kind in KINDS:
        lr = float(rates.loc[kind, "lr"])
        for latents in counts:
            axes = {AXES: cells(kind, latents, lr), "seed": seeds}
            grids[f"{kind.replace(' ', '')}_{latents}"] = Grid(setting_of(kind, latents, run), axes)
    for kind in COEFFICIENTS:
        base = grids[f"{kind}_{LATENTS}"]
        for times in run.pick(default=[0.5, 2, 4, 8], quick=[0.5, 2], smoke=[0.5]):
            axes = {**base.axes, "steps": [int(times * base.setting.steps)], AXES: base.axes[AXES][:1]}
            grids[f"{kind}_x{times:g}"] = Grid(base.setting, axes)
    measures = [conjunction, composite, separate, live, exact_loss, untrained]
    answers = sweep(grids, measures, snapshots=(0,), **options)
    parts = []
    for name, answer in answers.items():
        kind = next(k for k in KINDS if name.startswith(k.replace(" ", "") + "_"))
        setting = answer.grid.setting
        own = {
            "kind": kind,
            "latents": setting.model.arguments["latents"],
            "length": answer.table.get("steps", setting.steps) / setting.steps,
        }
        relative = (answer.table["lr"] / rates.loc[kind, "lr"]).round(3)
        parts.append(answer.table.assign(**own, relative=relative))
    engine = ", ".join(sorted({e for answer in answers.values() for e in answer.table["engine"]}))
    return pd.concat(parts, ignore_index=True), rates, engine, sum(a.seconds for a in answers.values())


def at(rows: pd.DataFrame, kind: str, latents: int = LATENTS, **cell: float) -> pd.DataFrame:
    """The rows of one cell, by seed; what is not named is as in the base."""
    given = {"p": P, "q": P, "spread": 0.0, "penalty": PENALTY[kind], "relative": 1.0, "length": 1.0} | cell
    given.setdefault("both", given["p"] * given["q"])
    keep = (rows["kind"] == kind) & (rows["latents"] == latents)
    for name, value in given.items():
        keep &= np.isclose(rows[name].astype(float), float(value))
    return rows[keep].set_index("seed").sort_index()


def share(rows: pd.DataFrame, column: str = "conjunction") -> stats.Interval:
    """How many seeds have it."""
    return stats.share(int(rows[column].sum()), len(rows))


def main(run: report.Run) -> None:
    rows, rates, engine, seconds = run_all(run)
    counts = sorted(rows["latents"].unique())
    statistics, verdict, controls = {}, {}, {name: {} for name in ("untrained", "no_penalty", "cells")}
    controls["learning_rates"] = rates.to_dict("index")
    binary = rows[rows["spread"] == 0]
    distinct = binary.drop_duplicates(["kind", "latents", "p", "q", "both", "penalty"])
    for kind in KINDS:
        key = kind.replace(" ", "_")
        own = distinct[(distinct["kind"] == kind) & (distinct["latents"] >= 3) & (distinct["penalty"] > 0)
                       | (distinct["kind"] == kind) & (distinct["latents"] >= 3) & kind.startswith("TopK")]  # fmt: skip
        gains = [np.subtract(*gain(row)) / row.both for row in own.itertuples()]
        least = statistics[f"{key}_least_gain_per_conjunction"] = stats.Interval(*3 * [min(gains)])
        verdict[f"table_{key}"] = stats.decide(least, (1e-9, np.inf))
        for latents in counts:
            cell = at(rows, kind, latents)
            statistics[f"{key}_H{latents}_conjunction"] = share(cell)
            statistics[f"{key}_H{latents}_composite"] = share(cell, "composite")
            statistics[f"{key}_H{latents}_separate"] = share(cell, "separate")
        verdict[f"trained_{key}"] = stats.decide(statistics[f"{key}_H{LATENTS}_conjunction"], (0.5, 1))
        controls["untrained"][key] = share(at(rows, kind), "untrained")
        made = stats.mean(at(rows, kind)["conjunction"] - at(rows, kind)["untrained"])
        statistics[f"{key}_H{LATENTS}_trained_less_untrained"] = made
        verdict[f"training_makes_them_{key}"] = stats.decide(made, (1e-9, 1))
    few = [stats.decide(statistics[f"{kind}_H2_conjunction"], (0, 0.05)) for kind in ("L1", "L0", "TopK_2")]
    ends = [at(rows, "L1", latents)["conjunction"] for latents in (counts[-1], 3 if 3 in counts else 2)]
    more = statistics["L1_conjunction_most_less_three_latents"] = stats.mean(ends[0] - ends[1])
    verdict["spare_latents"] = stats.every(*few, stats.decide(more, (0, 1)))
    base, none = at(rows, "L1"), at(rows, "L1", penalty=0.0)
    for kind in COEFFICIENTS:
        controls["no_penalty"][kind] = share(at(rows, kind, penalty=0.0))
    moved = statistics["L1_conjunction_base_less_no_penalty"] = stats.mean(base["conjunction"] - none["conjunction"])
    verdict["penalty_drives_L1"] = stats.decide(moved, (0.2, 1))
    for kind in ("L1", "L0"):
        graded = stats.ratio(at(rows, kind, spread=1.0)["conjunction"], at(rows, kind)["conjunction"], paired=True)
        statistics[f"{kind}_conjunction_graded_over_binary"] = graded
        verdict[f"graded_features_stop_{kind}"] = stats.decide(graded, (0, 0.5))
    bound = []
    for row in distinct.assign(least=binary.groupby(["kind", "latents", "p", "q", "both", "penalty"])["exact_loss"]
                               .transform("min")).itertuples():  # fmt: skip
        best = table(row.kind, row.p, row.q, row.both, row.penalty)[0].loss
        bound.append((row.least - best) / max(best, 1e-3))
    least = statistics["least_excess_over_the_table"] = stats.Interval(*3 * [min(bound)])
    verdict["table_is_a_bound"] = stats.decide(least, (-1e-3, np.inf))
    other = {f"x{factor:g}": at(rows, "L1", relative=factor) for factor in (0.5, 2.0)}
    other["half"] = at(rows, "L1", length=0.5)
    drift = {name: stats.mean(cell["conjunction"] - base["conjunction"]) for name, cell in other.items()}
    controls["moved_by_rate_or_length"] = drift
    for kind in COEFFICIENTS:
        longest = rows[rows["kind"] == kind]["length"].max()
        further = at(rows, kind, length=longest)["conjunction"] - at(rows, kind)["conjunction"]
        statistics[f"{kind}_H{LATENTS}_{longest:g}x_steps_less_default"] = stats.mean(further)
    verdict["rate_does_not_decide"] = stats.every(*(stats.decide(drift[n], 0.2) for n in ("x0.5", "x2")))
    verdict["length_does_not_decide"] = stats.decide(drift["half"], 0.2)
    cell_of = ["kind", "latents", "p", "q", "both", "spread", "penalty", "relative", "length"]
    for name, own in rows.groupby(cell_of):
        controls["cells"][" ".join(map(str, name))] = {"conjunction": share(own), "composite": share(own, "composite"),
                                                       "live": own["live"].mean()}  # fmt: skip
    report.write(run, draw(rows, counts, statistics), statistics=statistics, verdict=verdict, controls=controls,
                 engine=engine, instances=len(rows), steps=run.pick(default=1500, quick=750, smoke=4),
                 seconds=seconds)  # fmt: skip


def line(ax: plots.Axes, points: list[tuple[float, stats.Interval]], label: str, colour: Any, marker: str) -> None:
    """Shares with their intervals."""
    x, found = [x for x, _ in points], [one for _, one in points]
    value, low, high = (np.array([getattr(one, end) for one in found]) for end in ("value", "low", "high"))
    ax.plot(x, value, color=colour, marker=marker, markersize=5, label=label)
    ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def draw(rows: pd.DataFrame, counts: list[int], statistics: dict) -> plots.Figure:
    """The table; how often there is a conjunction over latents, coefficient, frequency, correlation and magnitudes."""
    figure, axes = plots.figure(2, 3, width=13, height=3.9)
    colours, kinds = plots.category_colours(KINDS), dict(zip(KINDS, "osD^", strict=True))
    latents, longer, coefficient, frequency, together, graded = axes.flat
    for kind in KINDS:
        options = {"label": kind, "colour": colours[kind], "marker": kinds[kind]}
        key = kind.replace(" ", "_")
        line(latents, [(h, statistics[f"{key}_H{h}_conjunction"]) for h in counts], **options)
        before = [at(rows, kind, h)["untrained"].mean() for h in counts]
        latents.plot(counts, before, color=colours[kind], linestyle=":")
        given = [(0.05, P * 0.05), (P, P * P), (0.5, P * 0.5), (0.9, P * 0.9)]
        line(together, [(g, share(at(rows, kind, both=both))) for g, both in given], **options)
        line(graded, [(s, share(at(rows, kind, spread=s))) for s in (0.0, 0.25, 0.5, 0.75, 1.0)], **options)
        if kind in COEFFICIENTS:
            line(frequency, [(p, share(at(rows, kind, p=p, q=p))) for p in (0.05, 0.1, P, 0.4)], **options)
            times = sorted(rows[rows["kind"] == kind]["length"].unique())
            line(longer, [(t, share(at(rows, kind, length=t))) for t in times], **options)
            values = sorted([PENALTY[kind], *COEFFICIENTS[kind]])
            line(coefficient, [(max(c, 0.001), share(at(rows, kind, penalty=c))) for c in values], **options)
    latents.plot([], [], color=plots.GREY, linestyle=":", label="before training")
    latents.set(xscale="log", xlabel="latents H", title="More latents")
    longer.set(xscale="log", xlabel="training steps, times the default", title="Longer training")
    longer.set_xticks(times, [f"{t:g}" for t in times])
    longer.minorticks_off()
    latents.set_xticks(counts, map(str, counts))
    latents.minorticks_off()
    coefficient.set(xscale="log", xlabel="coefficient (leftmost: none)", title="A stronger penalty")
    frequency.set(xlabel="P(A) = P(B)", title="More frequent features")
    together.set(xlabel="P(B | A), P(A) = P(B) = .2", title="Features more often together")
    together.axvline(P, color=plots.GREY, linestyle="--")
    together.annotate("independent", (P, 0.99), (4, 0), textcoords="offset points", va="top", fontsize=10)
    edge = np.sqrt(3 * ((2 - np.sqrt(2)) * PENALTY["L1"] - PENALTY["L1"] ** 2 / 4))
    graded.axvline(edge, color=plots.GREY, linestyle="--")
    graded.annotate(f"beyond s = {edge:.2f} a single A&B\nlatent costs more (L1)", (edge, 0.99), (4, 0),
                    textcoords="offset points", va="top", fontsize=10)  # fmt: skip
    graded.set(xlabel="spread s of magnitudes U(1 - s, 1 + s)", title="Graded features")
    for ax in axes.flat:
        ax.set(ylim=(-0.03, 1.03))
    for ax in axes[:, 0]:
        ax.set(ylabel="share of seeds with an A&B latent")
    figure.legend(*latents.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=11)
    saved = []
    for kind in ("L1", "L0"):
        apart, together = gain(at(rows, kind).iloc[0])
        saved.append(f"{100 * (1 - together / apart):.0f}% ({kind})")
    at_base = {kind: statistics[f"{kind.replace(' ', '_')}_H{LATENTS}_conjunction"].value for kind in KINDS}
    found = [f"{100 * value:.0f}% ({kind})" for kind, value in at_base.items()]
    figure.suptitle(
        f"Exact: composites save {' and '.join(saved)} of [A, B]'s loss, all of it (TopK 1), nothing (TopK 2)\n"
        f"Trained with {LATENTS} latents: {', '.join(found)} of seeds have an A&B latent"
    )
    return figure


if __name__ == "__main__":
    report.experiment(main)
