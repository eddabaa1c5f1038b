"""Does a sparse autoencoder prefer A&B, A&!B and !A&B to A and B, and does training find what it prefers?

A comment on Katta's note (2024) holds that a dictionary need not show the features, because the sparsity penalty itself
prefers composites. For two binary features along orthonormal directions the table is exact (THEORY.md 7,
`theory.pair_dictionaries`): [A, B] has L0 = L1 = p + q; [A&B, A&!B, !A&B] has L0 = p + q - r and L1 = p + q -
(2 - sqrt 2) r, r = P(A&B), and no error either: composites for any coefficient (L1 below 2, L0 below 1) once there are
three latents, TopK if k = 1. Magnitudes U(1 - s, 1 + s) cost a single A&B latent an error of r s^2 / 3, so its gain
under L1 ends at s* = sqrt(3 ((2 - sqrt 2) c - c^2 / 4)).

Dictionaries are trained without decoder bias; a conjunction is a latent that is on for A&B and for neither alone, read
off the three states. Added after a first run, in which length did decide: up to 8 times the steps, and shares before
training. Since a slow default run 48 of 128 seeds where only curves are drawn. Two cores: not timed alone since.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from toysup import plots, stats
from toysup.ensemble import Trained
from toysup.features import Features
from toysup.features.base import as_tensor
from toysup.models import L1, Embedding, JumpReLU, SparseAutoencoder, TopK
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.study import Check, Claim, Finding, Run, Search, Study, Variant, experiment
from toysup.sweep import Grid
from toysup.tasks import Reconstruction
from toysup.theory import pair_dictionaries

QUESTION = "Do sparse autoencoders replace two features by their conjunctions, as their penalties prefer?"
KINDS = {"L1": L1(), "L0": JumpReLU(0.3, 0.5), "TopK 1": TopK(1), "TopK 2": TopK(2)}
PENALTY = {"L1": 0.1, "L0": 0.03, "TopK 1": 0.0, "TopK 2": 0.0}
COEFFICIENTS = {"L1": [0.0, 0.01, 0.03, 0.3, 1.0], "L0": [0.0, 0.003, 0.01, 0.1, 0.3]}
STATES, ON = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)), 0.01  # ON: the contribution of a latent that is on
P, LATENTS, SHARES = 0.2, 8, ("conjunction", "composite", "separate", "untrained")


@dataclass(frozen=True)
class Pair(Features):
    """Two features with P(A) = p, P(B) = q, P(A and B) = both, and magnitudes U(1 - spread, 1 + spread)."""

    n_features: int = 2
    p: float = P
    q: float = P
    both: float = P * P
    spread: float = 0.0
    n_uniforms = 3

    @property
    def activity(self) -> Tensor:
        return torch.stack([as_tensor(self.p), as_tensor(self.q)])

    mean = activity

    @property
    def second_moment(self) -> Tensor:
        return self.activity * (1 + as_tensor(self.spread) ** 2 / 3)

    def transform(self, uniforms: Tensor) -> Tensor:
        p, q, both, spread = (as_tensor(v, uniforms) for v in (self.p, self.q, self.both, self.spread))
        u = uniforms[..., :1]
        on = torch.cat([u < p, (u < both) | ((u >= p) & (u < p + q - both))], -1)
        return torch.where(on, 1 + spread * (2 * uniforms[..., 1:] - 1), 0.0)


class Cell(NamedTuple):
    """Dictionaries of one kind and size for one pair; `varied` is what isn't as in the base."""

    kind: str
    latents: int
    varied: str
    penalty: float
    p: float = P
    q: float = P
    both: float = P * P
    spread: float = 0.0

    key = property(lambda cell: cell.kind.replace(" ", "_"))


def cells_of(kind: str) -> list[Cell]:
    """What is trained with 8 latents beside the base."""
    c, values = PENALTY[kind], (0.05, 0.1, P, 0.4)
    cells = [Cell(kind, LATENTS, "both", c, both=P * given) for given in (0.05, 0.5, 0.9)]
    cells += [Cell(kind, LATENTS, "spread", c, spread=s) for s in (0.25, 0.5, 0.75, 1.0)]
    cells += [Cell(kind, LATENTS, "penalty", other) for other in COEFFICIENTS.get(kind, ())]
    pairs = [(p, q) for i, q in enumerate(values) for p in values[i:] if (p, q) != (P, P) and kind in COEFFICIENTS]
    return cells + [Cell(kind, LATENTS, "frequency", c, p, q, p * q) for p, q in pairs]


def states(trained: Trained) -> tuple[Tensor, Tensor, Tensor]:
    """Which latents are on for A only, B only, both (magnitudes 1), which in this state alone; the exact loss there."""
    W = trained.constants["weights"].view(len(trained), 2, 2)
    h = torch.tensor(STATES) @ W
    code = trained.forward(h)
    p, q, both, c = trained.per_instance(lambda s, _: tuple(as_tensor(v) for v in (
        s.features.p, s.features.q, s.features.both, s.task.penalty)))  # fmt: skip
    chance = torch.stack([1 - p - q + both, p - both, q - both, both], -1)
    loss = (((h - code.reconstruction).square().sum(-1) + c[:, None] * code.cost) * chance).sum(-1)
    on = (code.latents * code.decoder.norm(dim=1)[:, None] > ON)[:, 1:]  # instance state latent
    return on, on & (on.sum(1, keepdim=True) == 1), loss


def exact_loss(trained: Trained) -> Tensor:
    """Expected over the four states (binary features)."""
    return states(trained)[2]


def found(trained: Trained) -> dict[str, Tensor]:
    """1 where there is a conjunction (before training, too); where every state has latents of its own and no others;
    where no latent is on in one state only, and both features are seen; and how many are on in any state."""
    on, alone, _ = states(trained)
    composite = alone.any(-1).all(-1) & (alone == on).all(-1).all(-1)
    separate = on[:, :2].any(-1).all(-1) & ~alone.any(-1).any(-1)
    return {"conjunction": alone[:, 2].any(-1).float(), "composite": composite.float(), "separate": separate.float(),
            "live": on.any(1).sum(-1).float(),
            "untrained": states(trained.at(0))[1][:, 2].any(-1).float()}  # fmt: skip


def study(run: Run) -> Study:
    size = run.sizes(dict(seeds=128, few=48, latents=[2, 3, 4, LATENTS, 16], three=3, held=32, extend=3, steps=1500,
                          batch=128, rates=(0.005, 0.01, 0.02), lengths=(0.5, 2, 4, 8)),
                     quick=dict(seeds=16, few=16, latents=[2, LATENTS], three=2, held=8, extend=0, steps=500,
                                rates=(0.01, 0.02), lengths=(0.5, 2)),
                     smoke=dict(seeds=3, few=3, held=2, steps=4, batch=16, lengths=(0.5,)))  # fmt: skip

    def grid(cell: Cell) -> Grid:
        model = Model(SparseAutoencoder, latents=cell.latents, sparsity=KINDS[cell.kind], centred=False)
        task = Reconstruction(Model(Embedding, width=2, orthonormal=True), penalty=cell.penalty)
        pair = Pair(p=cell.p, q=cell.q, both=cell.both, spread=cell.spread)
        setting = Setting(pair, task, model, Adam(beta2=0.99, schedule=Cosine()), size.steps, size.batch)
        decides = cell.varied == "" or cell.spread == 1 or (cell.varied == "penalty" and cell.penalty == 0)
        return Grid(setting, {"seed": range(size.seeds if decides else size.few)})

    changes = {f"{times}x_rate": {"optimizer.lr": times} for times in (0.5, 2.0)}
    changes |= {f"{times:g}x_steps": {"steps": times} for times in size.lengths}
    cells = [Cell(kind, latents, "", PENALTY[kind]) for kind in KINDS for latents in size.latents]
    trained = partial(Claim, checks=["rate_does_not_decide", "length_does_not_decide"])  # the table is exact
    return Study(
        cells + [cell for kind in KINDS for cell in cells_of(kind)], grid, measures=[found, exact_loss], snapshots=(0,),
        search=Search(lambda cell: grid(Cell(cell.kind, LATENTS, "", PENALTY[cell.kind])).setting, size.rates,
                      exact_loss, True, size.extend, seeds=range(1000, 1000 + size.held)), derive=derive,
        variants={name: Variant(change, lambda cell: cell[1:3] == (LATENTS, "") and cell.kind in COEFFICIENTS)
                  for name, change in changes.items()},
        findings={
            "gain": Finding(lambda rows: stats.Interval(*3 * [rows["gain"].min()]), "key",
                            "{key}_least_gain_per_conjunction", lambda rows: (rows["spread"] == 0) & (
                                rows["latents"] >= 3) & ((rows["penalty"] > 0) | rows["kind"].str.startswith("TopK"))),
            "over": Finding(lambda rows: stats.Interval(*3 * [rows["excess"].min()]), (), "least_excess_over_the_table",
                            {"spread": 0}, None),
            "shares": Finding(lambda rows: {of: stats.share(rows[of]) for of in SHARES}, ("key", "latents"),
                              "{key}_H{latents}_{column}", {"varied": ""}),
            "made": Finding(lambda rows: stats.mean(rows["conjunction"] - rows["untrained"]), "key",
                            f"{{key}}_H{LATENTS}_trained_less_untrained", {"varied": "", "latents": LATENTS}),
            "at_size": Finding(by_seed, ("kind", "latents"), "", {"varied": ""}, kept=False),
            "more": Finding(lambda at_size: stats.mean(at_size["L1", size.latents[-1]] - at_size["L1", size.three]), (),
                            "L1_conjunction_most_less_three_latents"),
            "driven": Finding(lambda rows, at_size: stats.mean(at_size["L1", LATENTS] - by_seed(rows)), (),
                              "L1_conjunction_base_less_no_penalty", {"kind": "L1", "varied": "penalty", "penalty": 0}),
            "graded": Finding(lambda rows, at_size, kind: stats.ratio(by_seed(rows), at_size[kind, LATENTS],
                                                                      paired=True),
                              "kind", "{kind}_conjunction_graded_over_binary", {"kind": ["L1", "L0"], "spread": 1}),
            "moved": Finding(lambda rows, at_size, kind: stats.mean(by_seed(rows) - at_size[kind, LATENTS]),
                             ("kind", "variant"), f"{{kind}}_H{LATENTS}_{{variant}}_less_default",
                             lambda table: table["variant"] != "", None),
            "cells": Finding(lambda rows: {of: stats.share(rows[of]) for of in SHARES} | {"live": rows["live"].mean()},
                             [*Cell._fields, "variant"], variant=None),
        },
        claims=[
            Claim("composites_are_optimal", "with three latents the exact optimum of {key} is composite", "gain",
                  (1e-9, np.inf), each="table_{key}", combine=None, checks=["table_is_a_bound"]),
            trained("training_finds_them", "with 8 latents over half of {key}'s seeds have a conjunction",
                  "shares.conjunction", (0.5, 1), where={"latents": LATENTS}, each="trained_{key}", combine=None),
            trained("training_makes_them", "more of {key}'s seeds have one than before training", "made", (1e-9, 1),
                  each="training_makes_them_{key}", combine=None),
            trained("spare_latents", "with two latents under 5% of seeds have one, unless k = 1; with L1 more do with "
                  "16 than with three", lambda shares, more: stats.every(stats.decide(more, (0, 1)), *(
                      stats.decide(shares[key, 2]["conjunction"], (0, 0.05)) for key in ("L1", "L0", "TopK_2")))),
            trained("penalty_drives_L1", "at least .2 more seeds have one than without penalty", "driven", (0.2, 1)),
            trained("graded_features_stop_them", "at s = 1 under half as many have one as at s = 0", "graded", (0, 0.5),
                  each="graded_features_stop_{kind}", combine=None),
            Check("table_is_a_bound", "no dictionary is below the table's best loss by more than .1%", "over",
                  (-1e-3, np.inf)),
            Check("rate_does_not_decide", "half and twice the learning rate move L1's share by less than .2", "moved",
                  0.2, where={"kind": "L1", "variant": ["0.5x_rate", "2.0x_rate"]}),
            Check("length_does_not_decide", "half the steps move L1's share by less than .2", "moved", 0.2,
                  where={"kind": "L1", "variant": "0.5x_steps"}),
        ],
        draw=draw, answer=answer)  # fmt: skip


def derive(table: pd.DataFrame) -> pd.DataFrame:
    """With exact losses of [A, B] and composites (three latents), what these save by conjunction, relative excess."""
    found = {}
    for cell, row in table.drop_duplicates("cell").set_index("cell").iterrows():
        name, _, k = row["kind"].partition(" ")
        exact = pair_dictionaries(row["p"], row["q"], row["both"], kind=name.lower(), penalty=row["penalty"], latents=3,
                                  k=int(k or 1))  # fmt: skip
        loss = {one.directions: one.loss for one in exact}
        found[cell] = {"apart": loss["A", "B"], "together": loss["A", "B", "A+B"], "best": exact[0].loss}
    table = table.join(pd.DataFrame.from_dict(found, orient="index"), on="cell")
    excess = (table["exact_loss"].astype(float) - table["best"]) / table["best"].clip(lower=1e-3)
    return table.assign(gain=(table["apart"] - table["together"]) / table["both"], excess=excess)


def by_seed(rows: pd.DataFrame) -> pd.Series:
    return rows.set_index("seed")["conjunction"].sort_index()


def answer(rows: pd.DataFrame, shares: dict) -> str:
    base = rows[rows["varied"] == ""].groupby("kind")[["apart", "together"]].first()
    saved = [f"{1 - base['together'][kind] / base['apart'][kind]:.0%} ({kind})" for kind in ("L1", "L0")]
    have = ", ".join(f"{shares[kind.replace(' ', '_'), LATENTS]['conjunction'].value:.0%} ({kind})" for kind in KINDS)
    exact = f"Composites save {' and '.join(saved)} of the loss of [A, B], all of it (TopK 1), nothing (TopK 2)"
    return f"{exact}; trained with {LATENTS} latents, {have} of seeds have a latent for A&B."


def draw(rows: pd.DataFrame, table: pd.DataFrame, shares: dict) -> plots.Figure:
    """How often there is a conjunction over latents, steps, coefficient, frequency, correlation and magnitudes."""
    figure, axes = plots.figure(2, 3, width=13, height=3.9, sharey=True)
    latents, longer, coefficient, frequency, together, graded = axes.flat
    titles = ("More latents", "Longer training", "A stronger penalty", "More frequent features",
              "Features more often together", "Graded features")  # fmt: skip
    below = ("latents H", "steps, times the default", "coefficient (leftmost: none)", "P(A) = P(B)",
             "P(B | A), P(A) = P(B) = .2", "spread s of magnitudes U(1 - s, 1 + s)")  # fmt: skip
    rows = rows.assign(given=rows["both"] / P, strength=rows["penalty"].clip(lower=0.001))
    colours, sizes = plots.category_colours(KINDS), sorted(set(rows["latents"]))
    for kind, marker in zip(KINDS, "osD^", strict=True):
        look, own = {"color": colours[kind], "marker": marker, "label": kind}, rows[rows["kind"] == kind]
        of = {size: shares[kind.replace(" ", "_"), size] for size in sizes}
        plots.curve(latents, {size: found["conjunction"] for size, found in of.items()}, **look)
        latents.plot(sizes, [found["untrained"].value for found in of.values()], color=colours[kind], linestyle=":")
        for ax, varied, x in ((coefficient, "penalty", "strength"), (frequency, "frequency", "p"),
                              (together, "both", "given"), (graded, "spread", "spread")):  # fmt: skip
            part = own[(own["latents"] == LATENTS) & own["varied"].isin(["", varied]) & (own["p"] == own["q"])]
            if kind in COEFFICIENTS or varied in ("both", "spread"):
                plots.curve(ax, {at: stats.share(one["conjunction"]) for at, one in part.groupby(x)}, **look)
        part = table[(table["kind"] == kind) & (table["latents"] == LATENTS) & (table["varied"] == "")]
        times = part[~part["variant"].str.endswith("rate")].groupby(part["steps"] / rows["steps"].iloc[0])
        plots.curve(longer, {n: stats.share(one["conjunction"]) for n, one in times}, **look)
    plots.ticks(latents, x=sizes, log="x")
    plots.ticks(longer, x=[0.5, 1, 2, 4, 8], log="x")
    edge = np.sqrt(3 * ((2 - np.sqrt(2)) * PENALTY["L1"] - PENALTY["L1"] ** 2 / 4))
    plots.level(together, P, "independent", upright=True)
    plots.level(graded, edge, "beyond, a single A&B costs more (L1)", upright=True)
    coefficient.set_xscale("log")
    for ax, title, x in zip(axes.flat, titles, below, strict=True):
        ax.set(title=title, xlabel=x, ylim=(-0.03, 1.03))
    plots.labels(axes, y="share of seeds with an A&B latent")
    plots.legend(figure, {"before training": {"linestyle": ":"}})
    return figure


if __name__ == "__main__":
    experiment(study)
