"""Does one dictionary over all layers find the features that dictionaries of single layers miss?

A crosscoder (Lindsey et al. 2024) reads the neurons of all layers with one set of latents. If features are in
superposition across layers, as Katta's note (2024) suggests, it must find features that no layer's own sparse
autoencoder finds; if each feature lives in one layer it has nothing to add.

Networks of four blocks, whose features are ANDs of pairs of 16 booleans (on with probability .1, so a pair with .01).
By hand, with known answers: universal AND dealt at random over the blocks (`scattered`: every AND in superposition over
layers), the same in one block (`single block`), and each AND within one block (`confined`). `trained`: 60 pairs on 48
neurons, reading and writing disjoint parts of the stream, and the same networks before training (`untrained`).

A feature is found by a dictionary if the activation of one of its latents has a squared correlation above 1/2 with the
AND over 32,768 held-out samples; a set of dictionaries finds what any of them finds. A crosscoder of 128 latents is
held against four autoencoders of 128 latents each, which favours those. All have an L1 penalty; its coefficient and the
learning rate are those that find most, searched for each kind of network and dictionary on two networks of no result.
Activations are scaled to unit mean square.

Rules. Gain = found by the crosscoder less found by the four autoencoders, as a share of the listed pairs, 95%
interval over networks. `NAME_crosscoder_finds_more` if the gain exceeds .05. It should be supported for `scattered` and
rejected for the controls `single_block`, `confined` and `untrained`; `controls_hold` if so. `trained` is the question.
`dictionaries_find_them`: the crosscoder finds more than 3/4 of the pairs of `single_block` (else a negative says
nothing). `length_does_not_decide`: with half the steps the gains of `scattered` and `trained` move by less than .1.

Beside it: the largest squared correlation of any single neuron; latents against the AND of another sample (chance); and
over how many layers a found feature's latent writes, (sum_l n_l)^2 / sum_l n_l^2 of its decoder norms n_l.

Two cores: --quick about two and a half minutes (more than it should), default 20 to 35 (1,325 s of training).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, vmap

from toysup import plots, report, stats
from toysup.constructions import confined_uand, pairs_setting, scattered_uand, single_block_uand
from toysup.ensemble import Trained, bound, one_thread
from toysup.measure import r_squared
from toysup.measure.dictionary import weights_of
from toysup.models import L1, SparseAutoencoder
from toysup.random import Stream, uniforms
from toysup.search import SEARCH_SEEDS
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, sweep
from toysup.tasks import Reconstruction

QUESTION = "Does one dictionary over all layers find features that dictionaries of single layers miss?"
NETWORKS = ("scattered", "single block", "confined", "trained", "untrained")
CONTROLS = {"scattered": "supported", "single block": "rejected", "confined": "rejected", "untrained": "rejected"}
DEPTH, INPUTS, PAIRS, INSIDE, NEURONS, FEW = 4, 16, 60, 24, 96, 48  # INSIDE: pairs within a block, FEW: trained neurons
LATENTS = 128
KINDS = CROSS, EACH = "crosscoder", "each layer"
PENALTIES, RATES = (0.03, 0.1, 0.3), (0.003, 0.01, 0.03)
LENGTHENED = ("scattered", "trained")  # trained half as long as well
FOUND, MORE, LENGTH = 0.5, 0.05, 0.1
BATCHES, BATCH = 32, 1024


@dataclass(frozen=True)
class PairReconstruction(Reconstruction):
    """Reconstruction that also knows which pairs its network computes: both inputs' numbers, (2 * n_pairs,)."""

    pairs: Any = None


def networks(run: report.Run, name: str, seeds: range, options: dict[str, Any]) -> Trained:
    """One network for each seed."""
    if name in ("trained", "untrained"):
        steps = run.pick(default=4000, quick=1500, smoke=4)
        optimizer = Adam(0.01, beta2=0.99, schedule=Cosine())
        setting = pairs_setting(INPUTS, PAIRS, DEPTH, FEW // DEPTH, density=0.1, optimizer=optimizer, steps=steps,
                                batch=512)  # fmt: skip
        found = sweep({"crosscoder_networks": Grid(setting, {"seed": seeds})}, [r_squared], snapshots=(0,), **options)
        trained = found["crosscoder_networks"].trained()
        return trained if name == "trained" else trained.at(0)
    build = {"scattered": scattered_uand, "single block": single_block_uand, "confined": confined_uand}[name]
    more = {"takes": 3} if name == "confined" else {}
    pairs = INSIDE if name == "confined" else PAIRS
    return build(INPUTS, pairs, neurons=NEURONS, depth=DEPTH, density=0.1, seeds=seeds, **more)


def mean_square(trained: Trained) -> Tensor:
    """E |neurons|^2 of each layer, (instance, layer), over 4,096 held-out samples."""
    with torch.no_grad(), one_thread():
        neurons = trained.forward(trained.batch(0, 4096)[0], record=True)[1].neurons
    return neurons.square().sum(-1).mean(1)


def grid_of(run: report.Run, trained: Trained, kind: str, penalty: float, lr: float, half: bool = False,
            only: int | None = None) -> Grid:  # fmt: skip
    """Dictionaries of one kind on some networks: one each, or one for each layer (or for the `only` one)."""
    weights, task = weights_of(trained), trained.setting.task
    pairs = torch.cat([trained.constants["first"], trained.constants["second"]], 1).double().numpy()
    power = mean_square(trained).double().numpy()
    sets = [tuple(range(DEPTH))] if kind == CROSS else [(layer,) for layer in range(DEPTH) if only in (None, layer)]
    rows = []
    for layers in sets:
        scale = np.sqrt(power[:, list(layers)].sum(1)).clip(1e-3)
        rows += [(layers, w, own, s, int(seed)) for w, own, s, seed in
                 zip(weights, pairs, scale, trained.stack.data_seed, strict=True)]  # fmt: skip
    task = PairReconstruction(trained.setting.model, weights[0], of="neurons", layers=sets[0], trained_on=task,
                              penalty=penalty, scale=1.0, pairs=pairs[0])  # fmt: skip
    latents = run.pick(default=LATENTS, smoke=8)
    model = Model(SparseAutoencoder, latents=latents, sparsity=L1(), layers=len(sets[0]))
    steps = run.pick(default=1500, quick=600, smoke=4) // (2 if half else 1)
    optimizer = Adam(lr, beta2=0.99, schedule=Cosine())
    setting = Setting(trained.setting.features, task, model, optimizer, steps, run.pick(default=256, smoke=32))
    return Grid(setting, {("task.layers", "task.weights", "task.pairs", "task.scale", "seed"): rows})


class Match:
    """Squared correlations with each listed AND over held-out samples, and what was read."""

    def __init__(self, trained: Trained) -> None:
        def sample(values, constants, draws):
            here = bound(trained.setting, values)
            x = here.features.transform(draws)
            first, second = here.task.pairs.long().chunk(2)
            return here.task.batch(here.features, constants, draws)[0], x[:, first] * x[:, second]

        sums: dict[str, Any] = {}
        with torch.no_grad(), one_thread():
            for number in range(BATCHES):
                draws = uniforms(trained.stack.data_seed, number, BATCH, INPUTS, stream=Stream.HELD_OUT)
                h, wanted = vmap(sample)(trained.values, trained.constants, draws)
                code = trained.forward(h)
                units = {"latent": code.latents, "neuron": h, "chance": code.latents.roll(1, 1)}
                for name, z in units.items():
                    parts = [z.sum(1), z.square().sum(1), wanted.sum(1), wanted.square().sum(1), wanted.mT @ z]
                    sums[name] = [a + b.double() for a, b in zip(sums.get(name, [0.0] * 5), parts, strict=True)]
            self.n, self.decoder = BATCHES * BATCH, code.decoder
        self.best = {name: self._squared(*own) for name, own in sums.items()}

    def _squared(self, z: Tensor, zz: Tensor, y: Tensor, yy: Tensor, yz: Tensor) -> Tensor:
        """(instance, pair, unit)."""
        n = self.n
        spread = (zz / n - (z / n) ** 2).unsqueeze(1) * (yy / n - (y / n) ** 2).unsqueeze(2)
        joint = yz / n - (y / n).unsqueeze(2) * (z / n).unsqueeze(1)
        return torch.where(spread > 1e-12, joint.clamp(min=0).square() / spread.clamp(min=1e-12), 0.0)


def match(trained: Trained) -> Match:
    """Kept with the dictionaries for the next measure."""
    return trained.once(Match)


def pair_match(trained: Trained) -> Tensor:
    """Largest squared correlation of any latent with each AND, (instance, pair)."""
    return match(trained).best["latent"].amax(2)


def neuron_match(trained: Trained) -> Tensor:
    """The same of any neuron read."""
    return match(trained).best["neuron"].amax(2)


def chance_match(trained: Trained) -> Tensor:
    """The same of any latent, of another sample."""
    return match(trained).best["chance"].amax(2)


def layers_written(trained: Trained) -> Tensor:
    """Participation ratio over layers of the decoder norms of each AND's best latent, NaN where it is not found."""
    best = match(trained).best["latent"]
    layers = len(trained.setting.task.layers)
    norms = match(trained).decoder.unflatten(1, (layers, -1)).norm(dim=2)  # instance layer latent
    ratio = norms.sum(1).square() / norms.square().sum(1).clamp(min=1e-12)
    own = ratio.gather(1, best.argmax(2))
    return torch.where(best.amax(2) > FOUND, own, torch.nan)


def found(trained: Trained) -> Tensor:
    """How many ANDs have a latent, (instance,)."""
    return (pair_match(trained) > FOUND).sum(1).float()


def search(run: report.Run, options: dict[str, Any]) -> tuple[dict[tuple[str, str], tuple[float, float]], dict]:
    """((network, kind) -> (penalty, learning rate) that find most, what else the search says).

    Autoencoders of single layers are searched on one layer, the one where all of `single block` is."""
    penalties = run.pick(default=PENALTIES, quick=PENALTIES[:2], smoke=PENALTIES[:1])
    rates = run.pick(default=RATES, quick=RATES[:2], smoke=RATES[:2])
    grids = {}
    for name in NETWORKS:
        nets = networks(run, name, SEARCH_SEEDS, options)
        for kind in KINDS:
            grid = grid_of(run, nets, kind, PENALTIES[0], RATES[0], half=True, only=DEPTH // 2)
            axes = {"task.penalty": list(penalties), "optimizer.lr": list(rates)}
            grids[name, kind] = Grid(grid.setting, {**grid.axes, **axes})
    answers = sweep({label("search", *key): grid for key, grid in grids.items()}, [found], **options)
    chosen, told = {}, {}
    for key in grids:
        means = answers[label("search", *key)].table.groupby(["penalty", "lr"])["found"].mean()
        penalty, lr = chosen[key] = means[means >= 0.99 * means.max()].index[0]  # the least penalty, the lowest rate
        inside = {"penalty": min(penalties) < penalty < max(penalties), "lr": min(rates) < lr < max(rates)}
        told[", ".join(key)] = {"penalty": penalty, "lr": lr, "inside": inside, "found": means[penalty, lr]}
    return chosen, told


def label(*parts: str) -> str:
    """A name of a sweep."""
    return "_".join(["crosscoder", *parts]).replace(" ", "_")


def union(features: pd.DataFrame, value: str) -> pd.DataFrame:
    """The best over a seed's dictionaries: (seed, feature)."""
    return features.pivot_table(index="seed", columns="feature", values=value, aggfunc="max", dropna=False)


def main(run: report.Run) -> None:
    options = {"results": run.results, "device": run.device, "workers": run.workers}
    seeds = range(run.pick(default=8, quick=3, smoke=2))
    chosen, told = search(run, options)
    grids, own_r2 = {}, stats.UNDEFINED
    for name in NETWORKS:
        nets = networks(run, name, seeds, options)
        if name == "trained":
            own_r2 = stats.mean((r_squared(nets).value > FOUND).double().mean(1).numpy())
        for kind in KINDS:
            for length in ("whole", "half") if name in LENGTHENED else ("whole",):
                grids[name, kind, length] = grid_of(run, nets, kind, *chosen[name, kind], half=length == "half")
    measures = [pair_match, neuron_match, chance_match, layers_written]
    answers = sweep({label(*key): grid for key, grid in grids.items()}, measures, **options)
    best = {key: answers[label(*key)].features for key in grids}
    shares, pairs_of = {}, {}
    for key, features in best.items():
        pairs_of[key] = union(features, "pair_match")
        shares[key] = (pairs_of[key] > FOUND).mean(axis=1)
    statistics, verdict, gains = {}, {}, {}
    controls: dict[str, Any] = {"search": told, "found": {}, "neuron": {}, "chance": {}, "layers_written": {},
                                "half_length_gain": {}}  # fmt: skip
    settled, held = [], []
    for name in NETWORKS:
        short = name.replace(" ", "_")
        gains[name] = statistics[f"{short}_gain"] = stats.mean(
            shares[name, CROSS, "whole"] - shares[name, EACH, "whole"]
        )
        verdict[f"{short}_crosscoder_finds_more"] = stats.decide(gains[name], (MORE, np.inf))
        if name in CONTROLS:
            held.append(verdict[f"{short}_crosscoder_finds_more"] == CONTROLS[name])
        if name in LENGTHENED:
            half = shares[name, CROSS, "half"] - shares[name, EACH, "half"]
            whole = shares[name, CROSS, "whole"] - shares[name, EACH, "whole"]
            controls["half_length_gain"][name] = stats.mean(half - whole)
            settled.append(stats.decide(controls["half_length_gain"][name], LENGTH))
        for kind in KINDS:
            controls["found"][f"{name}, {kind}"] = stats.mean(shares[name, kind, "whole"])
        features = best[name, CROSS, "whole"]
        controls["neuron"][name] = stats.mean((union(features, "neuron_match") > FOUND).mean(axis=1))
        controls["chance"][name] = stats.mean((union(features, "chance_match") > FOUND).mean(axis=1))
        written = features.groupby("seed")["layers_written"].mean().dropna()
        controls["layers_written"][name] = stats.mean(written) if len(written) > 1 else stats.UNDEFINED
    controls["trained_outputs_right"] = own_r2
    verdict["controls_hold"] = "supported" if all(held) else "rejected"
    verdict["dictionaries_find_them"] = stats.decide(controls["found"][f"single block, {CROSS}"], (0.75, np.inf))
    verdict["length_does_not_decide"] = stats.every(*settled)
    every = list(answers.values())
    engine = ", ".join(sorted({engine for answer in every for engine in answer.table["engine"]}))
    report.write(run, draw(controls, gains, pairs_of), statistics=statistics, verdict=verdict, controls=controls,
                 instances=sum(len(answer.table) for answer in every), engine=engine,
                 steps=max(grid.setting.steps for grid in grids.values()),
                 seconds=sum(answer.seconds for answer in every))  # fmt: skip


def draw(controls: dict, gains: dict[str, stats.Interval], pairs_of: dict) -> plots.Figure:
    """What each kind of dictionary finds; each AND in the crosscoder and in its best layer; where latents write."""
    figure, axes = plots.figure(1, 3, width=13, height=4.6, width_ratios=[1.5, 1, 0.9])
    bars, scatter, layers = axes[0]
    colours = plots.category_colours(KINDS)
    names = {CROSS: f"crosscoder, {LATENTS} latents", EACH: f"one for each layer, {LATENTS} each"}
    found = {kind: [controls["found"][f"{name}, {kind}"] for name in NETWORKS] for kind in KINDS}
    labels = [name.replace(" ", "\n") for name in NETWORKS]
    plots.bars(bars, labels, {names[kind]: own for kind, own in found.items()},
               {names[kind]: colours[kind] for kind in KINDS})  # fmt: skip
    for place, name in enumerate(NETWORKS):
        value = controls["neuron"][name].value
        bars.plot([place - 0.42, place + 0.42], [value] * 2, color=plots.GREY, linestyle="--", linewidth=1.5,
                  label="single neurons" if place == 0 else None)  # fmt: skip
    bars.set(ylabel="share of listed ANDs found", ylim=(0, 1.35), title="Found: r$^2$ of a latent above 1/2")
    bars.set_yticks([0, 0.25, 0.5, 0.75, 1])
    bars.legend(fontsize=9, loc="upper center", ncols=2)
    for name, colour in plots.category_colours(NETWORKS).items():
        if name != "single block":
            x, y = (pairs_of[name, kind, "whole"].to_numpy().ravel() for kind in (EACH, CROSS))
            scatter.plot(x, y, ".", color=colour, alpha=0.5, markersize=5, label=name)
    plots.reference(scatter, [0, 1], [0, 1], "", linestyle=":")
    for line in (scatter.axhline, scatter.axvline):
        line(FOUND, color=plots.GREY, linestyle="--", linewidth=1)
    scatter.set(xlabel="r$^2$ of the best layer's dictionary", ylabel="r$^2$ of the crosscoder", xlim=(-0.03, 1.03),
                ylim=(-0.03, 1.03), title="Each AND")  # fmt: skip
    scatter.legend(fontsize=9, loc="lower right")
    shown = [name for name in NETWORKS if np.isfinite(controls["layers_written"][name].value)]
    for place, name in enumerate(shown):
        one = controls["layers_written"][name]
        ends = [[one.value - one.low], [one.high - one.value]]
        layers.errorbar(place, one.value, yerr=ends, fmt="o", color=colours[CROSS], capsize=3)
    layers.set_xticks(range(len(shown)), [name.replace(" ", "\n") for name in shown], fontsize=8, rotation=20)
    for level, text in ((1, "one layer"), (DEPTH, "all alike")):
        plots.reference(layers, [-0.4, max(len(shown), 1) - 0.6], level, text)
    layers.set(ylim=(0.8, DEPTH + 0.5), ylabel="layers that a found latent writes", title="Spread of latents")
    told = ", ".join(f"{gains[name].value:+.0%} ({name})" for name in NETWORKS if name != "single block")
    control = gains["untrained"].value > gains["trained"].value
    more = ", most of all in untrained networks" if control else ", more in trained networks than in untrained ones"
    figure.suptitle(f"One dictionary over all layers finds ANDs that no layer's own does{more}:\n{told}", fontsize=14)
    return figure


if __name__ == "__main__":
    report.experiment(main)
