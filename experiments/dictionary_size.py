"""How many latents should a dictionary have? Splitting, absorption, dead latents, score and description length.

16 features, U[0, 1] magnitudes, along random unit directions in 12 dimensions; L1 dictionaries of H latents. Worlds:
four densities, Zipf's law (mean density .05), a hierarchy (a child is on only if its parent is) and, beside it,
independent features of the same frequencies. Each H has its own learning rate, searched in the base world (p = .05).

Criteria. Score: MCC (one-to-one matching of directions) above that of as many random latents; added after looking, as
its ceiling falls when chance grows: its share of the ceiling, and F1 of firing. Description length of a sample
(Ayonrinde et al. 2024, "Interpretability as compression") at precision D = .05: which latents are on, sum_j h2(f_j);
how much, L0 log2(1/D); what is left, (d/2) log2(1 + mse / (d D^2)); and the decoder at log2(1/D) bits a number, shared
out over training samples. H* has the best mean over seeds. A first default run had 12
seeds, and H = 16 F in all worlds, where no optimum lies; now the base world alone has it. Two cores: not timed alone.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from toysup import measure, plots, stats
from toysup.ensemble import Trained
from toysup.features import Hierarchy, PowerLaw, SparseUniform
from toysup.measure import dictionary
from toysup.models import L1, Embedding, SparseAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.study import Check, Claim, Finding, Run, Search, Study, Variant, experiment
from toysup.tasks import Reconstruction
from toysup.theory import mcc_floor

QUESTION = "How many latents should a dictionary have, and how does that move with density and frequencies?"
F, WIDTH, BASE, PRECISION = 16, 12, "p = .05", {"bits": 0.05, "bits_fine": 0.02, "bits_coarse": 0.1}
DENSITIES, PENALTIES = ["p = .02", BASE, "p = .1", "p = .2"], {"penalty 0.03": 0.03, "penalty 0.3": 0.3}
TREE = Hierarchy(F, 3, 0.12, 0.3, n_roots=4)
ACTIVITY = {name: np.full(F, float(name[4:])) for name in DENSITIES} | {
    f"Zipf {s}": PowerLaw(F, float(s), 0.05).activity.double().numpy() for s in (1, 2)} | {
    "as hierarchy": TREE.activity.double().numpy()}  # fmt: skip
WORLDS = [*ACTIVITY, "hierarchy"]
CRITERIA = {"length": "bits", "score": "mcc_above_chance", "ceiling": "found", "F1": "f1",
            "length, finer": "bits_fine", "length, coarser": "bits_coarse"}  # fmt: skip
MOVES = {"density": ("p = .02", "p = .2"), "frequencies": (BASE, "Zipf 2"), "penalty": tuple(PENALTIES)}
TRAININGS = {"half the rate": {"optimizer.lr": 0.5}, "twice the rate": {"optimizer.lr": 2.0},
             "half the steps": {"steps": 0.5}}  # fmt: skip
BY_SIZE = [*CRITERIA.values(), "dead_share", "split_share", "silenced", "conjunctions", "mean_l0", "untrained"]


class Cell(NamedTuple):
    """A dictionary in one world."""

    world: str
    latents: int

    penalty = property(lambda cell: PENALTIES.get(cell.world, 0.1))
    ratio = property(lambda cell: cell.latents / F)


def bits(trained: Trained) -> dict[str, torch.Tensor]:
    """Description length of a sample."""
    seen, setting, found = dictionary.firing(trained), trained.setting, {}
    f = (seen.latent / seen.samples).double()
    which = -(torch.xlogy(f, f) + torch.xlogy(1 - f, 1 - f)).sum(-1) / math.log(2)
    for name, precision in PRECISION.items():
        left = WIDTH / 2 * torch.log2(1 + seen.error.mean(0) / (WIDTH * precision**2))
        each, samples = math.log2(1 / precision), setting.steps * setting.batch
        found[name] = which + each * f.sum(-1) + left + f.shape[-1] * WIDTH * each / samples
    return found


def latents(trained: Trained) -> dict[str, torch.Tensor]:
    """What latents there are; how well they tell features, also before training."""
    kinds, f1 = dictionary.latent_kinds(trained), measure.feature_f1(trained).nanmean(-1)
    return {"dead_share": kinds.dead / sum(kinds), "split_share": kinds.split / sum(kinds), "f1": f1,
            "silenced": kinds.composite_and_not, "conjunctions": kinds.composite_and,
            "untrained": measure.mcc_above_chance(trained.at(0))}  # fmt: skip


def study(run: Run) -> Study:
    size = run.sizes(dict(most=16, steps=2000, batch=256, seeds=8, rates=(0.005, 0.01, 0.02), extend=3),
                     quick=dict(most=4, steps=250, seeds=4, rates=(0.01, 0.02), extend=0),
                     smoke=dict(most=1, steps=4, batch=32, seeds=2))  # fmt: skip

    def grid(cell: Cell) -> Setting:
        features = TREE if cell.world == "hierarchy" else SparseUniform(F, ACTIVITY.get(cell.world, ACTIVITY[BASE]))
        task = Reconstruction(Model(Embedding, width=WIDTH), penalty=cell.penalty)
        model = Model(SparseAutoencoder, latents=cell.latents, sparsity=L1())
        return Setting(features, task, model, Adam(beta2=0.99, schedule=Cosine()), size.steps, size.batch)

    cells = [Cell(world, 8 * 2**power) for power in range(6) for world in [*WORLDS, *PENALTIES]]
    grows = (1e-9, math.inf)
    return Study(
        [cell for cell in cells if cell.ratio <= size.most and (cell.ratio < 16 or cell.world == BASE)], grid,
        measures=[measure.mcc_above_chance, bits, latents, measure.mean_l0, measure.reconstruction_error],
        search=Search(lambda cell: grid(cell._replace(world=BASE)), size.rates, measure.held_out_loss, lowest=True,
                      extend=size.extend),
        variants={name: Variant(change, lambda cell: cell.world == BASE) for name, change in TRAININGS.items()},
        seeds=size.seeds, snapshots=(0,), derive=derive,
        findings={
            "optima": Finding(optima, "world", "{column}, {world}", {"world": WORLDS}),
            "kinds": Finding(kinds, (), "{column}"),
            "length": Finding(curve, "world"),
            **{f"moved by {of}": Finding(lambda length, a=a, b=b: best(length[a], length[b]), (),
                                         f"log2 H* by length, {b} over {a}") for of, (a, b) in MOVES.items()},
            "trained_otherwise": Finding(lambda rows, length: best(length[BASE], curve(rows)), "variant", "",
                                         lambda table: table["variant"] != "", None),
            "by_size": Finding(lambda rows: {of: stats.mean(rows[of]) for of in BY_SIZE}, ("world", "variant", "ratio"),
                               variant=None),
        },
        claims=[
            Claim("optimum_near_F", "the shortest description has F to 2F latents at each of four densities",
                  "optima.log2 H*/F by length", (-0.01, 1.01), where={"world": DENSITIES}),
            Claim("criteria_agree", "score and length are best at sizes within a factor of 2",
                  "optima.log2 H* by score less by length", 1.0),
            Claim("ceiling_agrees", "so are the score's share of its ceiling and length",
                  "optima.log2 H* by ceiling less by length", 1.0),
            *[Claim(f"moves_with_{of}", f"the best size by length is another at {b} than at {a}", f"moved by {of}",
                    outside=0.01) for of, (a, b) in MOVES.items()],
            *[Claim(name, f"in the largest a larger share is {kind} than at H = F",
                    f"kinds.{kind} share, most less H = F", grows)
              for name, kind in (("splitting_grows", "split"), ("dead_grows", "dead"))],
            Claim("absorption", "more latents are silent where another feature is on if features form a hierarchy",
                  "kinds.hierarchy less independent", grows),
            Check("rate_does_not_decide", "half and twice the learning rate move the best size by length by 2 at most",
                  "trained_otherwise", 1.0, where={"variant": list(TRAININGS)[:2]}),
            Check("length_does_not_decide", "half the steps move the best size by length by 2 at most",
                  "trained_otherwise", 1.0,
                  where={"variant": "half the steps"}),
        ],
        draw=draw, answer=answer,
    )  # fmt: skip


def derive(table: pd.DataFrame) -> pd.DataFrame:
    """With the score as a share of its ceiling, and bits over those with the features as dictionary (no decoder)."""
    chance = table["latents"].map({h: mcc_floor(F, h, WIDTH) for h in set(table["latents"])})
    own = {world: -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum() + p.sum() * math.log2(1 / PRECISION["bits"])
           for world, p in ACTIVITY.items()}  # fmt: skip
    return table.assign(found=table["mcc_above_chance"] / (1 - chance), excess=table["bits"] / table["world"].map(own))


def curve(rows: pd.DataFrame, column: str = "bits") -> pd.DataFrame:
    """(seed, H/F) in one world; bits are negative, so that more is better."""
    values = rows.pivot(index="seed", columns="ratio", values=column).astype(float)
    return -values if column in PRECISION else values


def best(*curves: pd.DataFrame) -> stats.Interval:
    """log2 of H*/F; of two, log2 of the second's H* over the first's, of sizes that both have, seeds drawn together."""
    sizes = curves[0].columns.intersection(curves[-1].columns)
    ratios = np.log2(sizes.to_numpy())

    def of(*values: np.ndarray) -> float:
        tops = [ratios[own.mean(0).argmax()] for own in values]
        return tops[-1] - (tops[0] if len(tops) > 1 else 0)

    return stats.bootstrap(of, *(own[sizes].to_numpy() for own in curves), paired=True, resamples=1000)


def optima(rows: pd.DataFrame, world: str) -> dict[str, stats.Interval]:
    """Where each criterion has its optimum in one world, and what is reached where length has it."""
    curves = {name: curve(rows, column) for name, column in CRITERIA.items()}
    found = {f"log2 H*/F by {name}": best(own) for name, own in curves.items()}
    for name in ("score", "ceiling"):
        found[f"log2 H* by {name} less by length"] = best(curves["length"], curves[name])
    own = rows[rows["ratio"] == curves["length"].mean().idxmax()]
    found["score at H*"] = stats.mean(own["mcc_above_chance"])
    return found | ({"bits at H* over the features' own": stats.mean(own["excess"])} if world in ACTIVITY else {})


def kinds(rows: pd.DataFrame) -> dict[str, stats.Interval]:
    """How splitting and dead latents grow; absorption, at H = 2F or the largest there is."""
    at, found = min(2.0, rows["ratio"].max()), {}
    for kind in ("split", "dead"):
        own = curve(rows[rows["world"] == BASE], f"{kind}_share")
        found[f"{kind} share, most less H = F"] = stats.mean(own.iloc[:, -1] - own[1.0])
    tree, apart = (curve(rows[rows["world"] == world], "silenced")[at] for world in ("hierarchy", "as hierarchy"))
    return found | {"A&!B latents at H = 2F, hierarchy": stats.mean(tree), "and independent": stats.mean(apart),
                    "hierarchy less independent": stats.mean(tree - apart)}  # fmt: skip


def answer(optima: dict) -> str:
    words = {0.5: "half as many", 1.0: "as many", 2.0: "twice as many"}
    size = {world: 2 ** found["log2 H*/F by length"].value for world, found in optima.items()}
    told = {world: words.get(ratio, f"{ratio:g} times as many") for world, ratio in size.items()}
    usual = max(told.values(), key=list(told.values()).count)
    others = ", ".join(f"{word} for {world}" for world, word in told.items() if word != usual)
    but = f" ({others})" if others else ""
    return f"Descriptions are shortest with {usual} latents as features{but}; further ones split features or die."


def draw(rows: pd.DataFrame, optima: dict) -> plots.Figure:
    """Description length and score over H/F, what latents there are, and where the optima lie."""
    figure, axes = plots.figure(2, 3, width=13, height=3.9)
    length, score, where, split, dead, silent = axes.flat
    colours, some = plots.category_colours(WORLDS), [*DENSITIES, "Zipf 2"]
    for ax, column, worlds, title, label in (
        (length, "excess", some, "Description length", "bits / bits of the features themselves"),
        (score, "found", some, "Features found", "(MCC - chance) / (1 - chance)"),
        (split, "split_share", DENSITIES, "Split: about a feature that has one", "share of latents"),
        (dead, "dead_share", some, "Dead latents", "share of latents"),
        (silent, "silenced", ["hierarchy", "as hierarchy", BASE], "Silent where another feature is on", "latents"),
    ):
        plots.band(ax, rows, "ratio", column, "world", colours={world: colours[world] for world in worlds}, log=True)
        ax.set(xlabel="latents / features, H/F", ylabel=label, title=title)
    for ax, value, name in ((length, 1, "the features themselves"), (score, 1, "the features themselves"),
                            (score, 0, "random dictionary")):  # fmt: skip
        plots.level(ax, value, name)
    names = dict(zip(CRITERIA, ("description length", "MCC - chance", "its share of the ceiling", "F1"), strict=False))
    best = {world: {name: own[f"log2 H*/F by {by}"] for by, name in names.items()} for world, own in optima.items()}
    plots.forest(where, best)
    plots.ticks(where, x={np.log2(ratio): f"{ratio:g}" for ratio in sorted(set(rows["ratio"]))})
    where.set(xlabel="best H/F (95%)", title="Where each criterion's optimum lies")
    plots.legend(where, size=9, below=True, ncols=2)
    plots.legend(figure)
    return figure


if __name__ == "__main__":
    experiment(study)
