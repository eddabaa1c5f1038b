"""Does one dictionary over all layers find the features that dictionaries of single layers miss?

A crosscoder (Lindsey et al. 2024) reads the neurons of all layers with one set of latents. If features are in
superposition across layers, as Katta's note (2024) suggests, it must find features that no layer's own sparse
autoencoder finds; if each feature lives in one layer it has nothing to add. Networks of four blocks, whose features are
ANDs of pairs of 16 booleans (on with probability .1): by hand, universal AND dealt at random over the blocks
(`scattered`), the same in one block (`single_block`), and each AND within one block (`confined`); `trained` on 60 pairs
with 48 neurons, reading and writing disjoint parts of the stream; the same before training (`untrained`).

A dictionary finds an AND if one of its latents has a squared correlation above 1/2 with it over 32,768 held-out
samples; a set of dictionaries finds what any of them does. 128 latents are held against four times 128, which favours
the latter. The L1 penalty and learning rate are those that find most in two networks of no result (--quick takes usual
ones). Activations are scaled to unit mean square. Two cores: --quick about a minute, default 20 to 35.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from toysup import plots, stats
from toysup.constructions import confined_uand, pairs_setting, scattered_uand, single_block_uand
from toysup.ensemble import Trained, one_thread
from toysup.measure import r_squared
from toysup.measure.dictionary import weights_of
from toysup.measure.matches import best_matches
from toysup.models import L1, SparseAutoencoder
from toysup.search import SEARCH_SEEDS
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.study import Check, Claim, Finding, Run, Study, Variant, experiment
from toysup.sweep import Grid, sweep
from toysup.tasks import Reconstruction

QUESTION = "Does one dictionary over all layers find features that dictionaries of single layers miss?"
KINDS = CROSS, EACH = "one dictionary over all layers", "one for each layer"
BY_HAND = {"scattered": scattered_uand, "single_block": single_block_uand, "confined": confined_uand}
EXPECTED = {"scattered": "supported", "single_block": "rejected", "confined": "rejected", "untrained": "rejected"}
NETWORKS = (*BY_HAND, "trained", "untrained")
DEPTH, INPUTS, FOUND, MORE = 4, 16, 0.5, (0.05, np.inf)


class Cell(NamedTuple):
    network: str
    kind: str


@dataclass(frozen=True)
class PairReconstruction(Reconstruction):
    """Reconstruction that also knows which pairs its network computes: both inputs' numbers, (2 * n_pairs,)."""

    pairs: Any = None


def ands(setting: Setting, x: Tensor) -> Tensor:
    first, second = setting.task.pairs.long().chunk(2)
    return x[:, first] * x[:, second]


def study(run: Run) -> Study:
    size = run.sizes(dict(networks=NETWORKS, seeds=8, steps=1500, batch=256, latents=128, batches=32, training=4000,
                          penalties=(0.03, 0.1, 0.3), rates=(0.003, 0.01, 0.03)),
                     quick=dict(networks=NETWORKS[:2] + NETWORKS[3:], seeds=2, steps=200, batch=64, batches=8,
                                training=400, penalties=(0.03,), rates=(0.03,)),
                     smoke=dict(networks=NETWORKS[::3] + NETWORKS[4:], seeds=2, steps=2, latents=8, batches=1,
                                training=2))  # fmt: skip
    options = {"results": run.results, "device": run.device, "workers": run.workers}
    cells = [Cell(network, kind) for network in size.networks for kind in KINDS]
    half = Variant({"steps": 0.5}, lambda cell: cell.network in ("scattered", "trained"))

    @cache
    def subjects(name: str, seeds: range) -> Trained:
        """The networks that are read, one for each seed."""
        if name in BY_HAND:
            pairs, more = (24, {"takes": 3}) if name == "confined" else (60, {})
            return BY_HAND[name](INPUTS, pairs, neurons=96, depth=DEPTH, density=0.1, seeds=seeds, **more)
        setting = pairs_setting(INPUTS, 60, DEPTH, 12, density=0.1, steps=size.training, batch=512,
                                optimizer=Adam(0.01, beta2=0.99, schedule=Cosine()))  # fmt: skip
        found = sweep({"crosscoder_networks": Grid(setting, {"seed": seeds})}, [r_squared], snapshots=(0,), **options)
        trained = found["crosscoder_networks"].trained()
        return trained if name == "trained" else trained.at(0)

    def dictionaries(cell: Cell, seeds: range, penalty: float, lr: float, layers: range = range(DEPTH)) -> Grid:
        """A dictionary of all layers for each network, or one for each of these layers."""
        trained = subjects(cell.network, seeds)
        with torch.no_grad(), one_thread():
            neurons = trained.forward(trained.batch(0, 4096)[0], record=True)[1].neurons
        power = neurons.square().sum(-1).mean(1).double().numpy()  # instance layer
        pairs = torch.cat([trained.constants["first"], trained.constants["second"]], 1).double().numpy()
        sets = [tuple(range(DEPTH))] if cell.kind == CROSS else [(layer,) for layer in layers]
        rows = [(own, *one) for own in sets for one in
                zip(weights_of(trained), pairs, np.sqrt(power[:, list(own)].sum(1)).clip(1e-3),
                    trained.stack.data_seed.tolist(), strict=True)]  # fmt: skip
        task = PairReconstruction(trained.setting.model, rows[0][1], of="neurons", layers=sets[0], pairs=pairs[0],
                                  trained_on=trained.setting.task, penalty=penalty, scale=1.0)  # fmt: skip
        model = Model(SparseAutoencoder, latents=size.latents, sparsity=L1(), layers=len(sets[0]))
        optimizer = Adam(lr, beta2=0.99, schedule=Cosine())
        setting = Setting(trained.setting.features, task, model, optimizer, size.steps, size.batch)
        return Grid(setting, {("task.layers", "task.weights", "task.pairs", "task.scale", "seed"): rows})

    def match(trained: Trained, batches: int = size.batches) -> dict[str, Tensor]:
        return best_matches(trained, ands, batches=batches)

    @cache
    def search() -> pd.DataFrame:
        """The least penalty and lowest rate of those that find most, by cell; single layers on the one that
        `single_block` uses."""
        tried = {"task.penalty": list(size.penalties), "optimizer.lr": list(size.rates)}
        if len(size.rates) == 1:
            return pd.DataFrame({"penalty": size.penalties[0], "lr": size.rates[0]}, index=map(str, cells))
        grids = [half(dictionaries(cell, SEARCH_SEEDS, 0.03, 0.003, range(2, 3))) for cell in cells]
        grids = {f"search_{i}": Grid(grid.setting, {**grid.axes, **tried}) for i, grid in enumerate(grids)}
        rows = {}
        for cell, answer in zip(cells, sweep(grids, [match], **options).values(), strict=True):
            found = (answer.features["latent"] > FOUND).groupby([answer.features[x] for x in ("penalty", "lr")]).sum()
            rows[str(cell)] = (*found[found >= 0.99 * found.max()].index[0], found.max())
        return pd.DataFrame.from_dict(rows, orient="index", columns=["penalty", "lr", "found"])

    return Study(
        cells, lambda cell: dictionaries(cell, range(size.seeds), *search().loc[str(cell), ["penalty", "lr"]]),
        measures=[match], variants={"half": half},
        findings={
            "shares": Finding(shares), "found": Finding(found, ("network", "kind")), "search": Finding(search),
            "gain": Finding(lambda shares, network: stats.mean(gains(shares, network)), "network", "{network}_gain"),
            "half_gain": Finding(lambda shares, network: stats.mean(
                gains(shares, network, "half") - gains(shares, network)), "network", variant="half"),
            "trained_outputs_right": Finding(lambda: stats.mean(
                (r_squared(subjects("trained", range(size.seeds))).value > FOUND).double().mean(1))),
        },
        claims=[
            Claim("finds_more", "in {network} networks a dictionary over all layers finds 5% or more of all ANDs that "
                  "those of single layers miss", "gain", MORE, each="{network}_crosscoder_finds_more",
                  combine=None, least="default"),
            Check("controls_hold", "the crosscoder finds more of ANDs that are scattered by hand, not of ANDs in one "
                  "block or in blocks, nor before training",
                  lambda gain: all(stats.decide(gain[name], MORE) == EXPECTED[name] for name in {*EXPECTED} & {*gain})),
            Check("dictionaries_find_them", "a dictionary finds over 3/4 of a single block's ANDs (else a negative "
                  "says nothing)", "found.latent", (0.75, np.inf), where={"network": "single_block", "kind": CROSS}),
            Check("length_does_not_decide", "half the steps move what the crosscoder adds by less than .1", "half_gain",
                  0.1),
        ],
        draw=draw, answer=answer,
    )  # fmt: skip


def shares(features: pd.DataFrame) -> pd.DataFrame:
    """Of ANDs found by any of a network's dictionaries, by kind and seed."""
    best = features.groupby(["network", "kind", "variant", "seed", "feature"])[["latent", "neuron", "chance"]].max()
    return (best > FOUND).groupby(level=[0, 1, 2, 3]).mean()


def gains(shares: pd.DataFrame, network: str, variant: str = "") -> pd.Series:
    return shares["latent"][network, CROSS, variant] - shares["latent"][network, EACH, variant]


def found(shares: pd.DataFrame, features: pd.DataFrame, network: str, kind: str) -> dict[str, stats.Interval]:
    """Mean shares; over how many layers the latents that find ANDs write."""
    same = (features["network"] == network) & (features["kind"] == kind) & (features["variant"] == "")
    written = features[same & (features["latent"] > FOUND)].groupby("seed")["layers_written"].mean()
    means = {name: stats.mean(own, bounds=(0, 1)) for name, own in shares.loc[network, kind, ""].items()}
    return {**means, "layers_written": stats.mean(written) if len(written) > 1 else stats.UNDEFINED}


def answer(found: dict, gain: dict) -> str:
    told = {name: " against ".join(f"{found[name, kind]['latent'].value:.0%}" for kind in KINDS) for name in gain}
    more = "finds" if gain["trained"].value > MORE[0] else "does not find"
    null = gain["untrained"].value > gain["trained"].value
    return (f"One dictionary over all layers {more} ANDs that dictionaries of single layers miss: {told['trained']} "
            f"of all in trained networks, {told['scattered']} where they are scattered over layers by hand, and "
            f"{told['untrained']} before training{', so that it is no sign of learning' * null}")  # fmt: skip


def draw(features: pd.DataFrame, found: dict, gain: dict) -> plots.Figure:
    """What each kind of dictionary finds; each AND in the crosscoder and in its best layer; where latents write."""
    figure, axes = plots.figure(1, 3, width=13, height=4.6, width_ratios=[1.5, 1, 0.9])
    bars, dots, layers = axes[0]
    names, at = {name: name.replace("_", "\n") for name in gain}, np.arange(len(gain))
    plots.bars(bars, names.values(), {kind: [found[name, kind]["latent"] for name in names] for kind in KINDS})
    neurons = [found[name, CROSS]["neuron"].value for name in names]
    bars.hlines(neurons, at - 0.42, at + 0.42, plots.GREY, "--", label="single neurons")
    bars.set(ylabel="share of listed ANDs found", ylim=(0, 1.35), title="Found: r$^2$ of a latent above 1/2")
    plots.ticks(bars, y=[0, 0.25, 0.5, 0.75, 1])
    plots.legend(bars, loc="upper center", ncols=2, size=9)
    main = features[(features["variant"] == "") & (features["network"] != "single_block")]
    each = main.groupby(["network", "seed", "feature", "kind"], sort=False)["latent"].max().unstack().reset_index()
    plots.scatter(dots, each, EACH, CROSS, "network", colours=plots.category_colours(NETWORKS))
    plots.reference(dots, [0, 1], [0, 1], "", linestyle=":")
    for upright in (False, True):
        plots.level(dots, FOUND, upright=upright)
    dots.set(xlabel="r$^2$ of the best layer's dictionary", ylabel="r$^2$ of the crosscoder", title="Each AND")
    plots.legend(dots, loc="lower right", size=9)
    plots.interval(layers, {label: found[name, CROSS]["layers_written"] for name, label in names.items()})
    for value, text in ((1, "one layer"), (DEPTH, "all alike")):
        plots.level(layers, value, text)
    layers.tick_params(axis="x", labelsize=8)
    layers.set(ylabel="layers that a found latent writes", title="Spread of latents", xlim=(-0.5, len(names) - 0.5),
               ylim=(0.8, DEPTH + 0.5))  # fmt: skip
    return figure


if __name__ == "__main__":
    experiment(study)
