"""Computing |x| with fewer neurons than it takes: from neurons of one meaning to neurons of many.

"Computation in superposition" and "Superposition in a privileged basis" of Elhage et al. 2022. h = ReLU(W1 x) without
bias, y = ReLU(W2 h + b), y = |x|, x ~ U[-1, 1] with probability p = 1 - S: n = 3, m = 6 at p = 1; n = 100, m = 40,
I = 0.8^i over p. And h = ReLU(W x), x' = ReLU(W^T h + b), x ~ U[0, 1], n = 10, m = 5, I = 0.75^i. AdamW as in their
notebook, lr 1e-3, 10,000 steps of 1024. The start of W2 is not stated there. From a symmetric one half of all sides of
outputs start off and, where features are rarely active together, stay off; so here W2 starts as 0.1 |xavier_normal|
(control "symmetric start": xavier_normal). The 0.1 was chosen among a few starts on seeds 0 and 1, two of the eight.

Rules. A neuron serves a feature if the slope it gives to it is above theta of its largest slope, theta = 0.1 and 0.25,
or, as in the paper's stacks of weights, if |W1| is; 2 x 2 rules, all of which must agree (`every`).
  monosemantic_when_dense: at p = 1, n = 3 and n = 100, the mean share of live neurons with one feature is above 0.9.
  polysemantic_when_sparse: at p = 0.001 the mean share of neurons with two features or more is above 0.5.
  beats_naive: at some p the mean loss is below that of the best network without superposition, which computes the 20
    most important features exactly (`theory.monosemantic_loss`). beats_naive_lr_0.01: the same at a tenfold rate that
    decays by a cosine; this rule was added once the first was seen to be undecided.
  more_features_than_naive: at some p sum_i max(0, R^2_i) is above 20.
  asymmetric_motif_found: at some p a network holds at least one motif (an unequal pair with an inhibiting neuron,
    `neurons.asymmetric_motifs`) more than each of two nulls, for unequal by 2 and by 3: neurons that fire on a random
    side of their features, and neurons whose features are renamed.
  privileged_basis_aligned: at every p mean max_k |W_ik| / |W_i| is above that of networks without the hidden ReLU,
    trained alike. privileged_basis_above_rotated: at every p it is above that of the same networks, rotated at random.
    They differ where Adam, whose steps depend on the basis, turns linear networks off their axes; control: gradient
    descent, whose steps do not.
  privileged_basis_turns_polysemantic: n = 10's neurons by slope, as in the first two, between p = 1 and 0.01.
Intervals are over seeds, 95%; "at some p" corrects the level for the number of densities. The controls repeat the
verdicts from a symmetric start, at the tenfold rate, and after twice the steps.

Two cores: --quick about 40 s (estimated), default 5 to 8 minutes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from toysup import measure, neurons, plots, report, stats
from toysup.features import SparseUniform
from toysup.models import MLP, TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, Results, sweep
from toysup.tasks import AbsoluteValue, Identity
from toysup.theory import monosemantic_loss

QUESTION = "Do networks compute |x| of more features than their neurons allow, and what do single neurons then do?"
N, M, IMPORTANCE = 100, 40, 0.8 ** np.arange(100)
RULES = {f"{rule.__name__}_{theta}": (rule, theta) for rule in (neurons.served, neurons.drawn) for theta in (0.1, 0.25)}
RATIOS, START = (2.0, 3.0), 0.1
PAPER, FAST = Adam(weight_decay=0.01), Adam(lr=0.01, weight_decay=0.01, schedule=Cosine())
DESCENT = Adam(lr=300.0, eps=1000.0)  # eps above any gradient's size: gradient descent with momentum at rate 0.3


def grids_of(run: report.Run) -> dict[str, Grid]:
    steps = run.pick(default=10_000, quick=3000, smoke=20)
    batch = run.pick(default=1024, quick=512, smoke=64)
    some = run.pick(default=[1, 0.1, 0.01, 0.001], smoke=[0.001])
    many = run.pick(default=[1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001], quick=some, smoke=[1, 0.001])
    seeds = range(run.pick(default=8, quick=3, smoke=2))

    def computing(densities, *, n=N, m=M, start=START, optimizer=PAPER, longer=1, seeds=seeds):
        task = AbsoluteValue(IMPORTANCE if n == N else 1.0)
        model = Model(MLP, width=m, hidden_bias=False, open_start=start)
        setting = Setting(SparseUniform(n, 1.0, signed=True), task, model, optimizer, steps * longer, batch)
        return Grid(setting, {"features.density": densities, "seed": seeds})

    def storing(hidden_relu, count, optimizer=PAPER):
        model = Model(TiedAutoencoder, width=5, hidden_relu=hidden_relu)
        setting = Setting(SparseUniform(10, 1.0), Identity(0.75 ** np.arange(10)), model, optimizer, steps, batch)
        return Grid(setting, {"features.density": run.pick(default=[1, 0.3, 0.1, 0.03, 0.01], smoke=[1, 0.01]),
                              "seed": range(count)})  # fmt: skip

    return {
        "small": computing([1], n=3, m=6, seeds=range(run.pick(default=256, quick=64, smoke=4))),
        "large": computing(many),
        "symmetric start": computing(some, start=None),
        "lr 0.01, cosine": computing(some, optimizer=FAST),
        "twice as long": computing([p for p in some if p != 1], longer=2),
        "privileged": storing(True, run.pick(default=96, quick=32, smoke=3, full=1000)),
        "linear": storing(False, run.pick(default=64, quick=32, smoke=3)),
        "linear, descent": storing(False, run.pick(default=32, quick=16, smoke=3), DESCENT),
    }


def weights_of(answer: Results) -> tuple[torch.Tensor, torch.Tensor]:
    """(W_in, W_out) as `measure.neurons` wants them."""
    if answer.grid.setting.model.build is TiedAutoencoder:
        W = torch.from_numpy(answer.parameters("W"))
        return W.clamp(min=0), W.mT
    return torch.from_numpy(answer.parameters("weights.0")), torch.from_numpy(answer.parameters("W_out"))


def with_neurons(answer: Results) -> pd.DataFrame:
    """The sweep's table with each network's shares of dead, one-feature and many-feature neurons by every rule."""
    W_in, W_out = weights_of(answer)
    table = answer.table.copy()
    for name, (rule, theta) in RULES.items():
        counts = rule(W_in, W_out, theta).sum(-2)
        for kind, found in (("none", counts == 0), ("one", counts == 1), ("many", counts > 1)):
            table[f"{name}_{kind}"] = found.float().mean(-1).numpy()
        live = (counts > 0).sum(-1).clamp(min=1)
        table[f"{name}_one_of_live"] = ((counts == 1).sum(-1) / live).numpy()
    table["features_per_neuron"] = neurons.effective_features(W_in, W_out).mean(-1).numpy()
    if W_out.shape[-1] == N:
        naive = {p: monosemantic_loss(IMPORTANCE, p, M) for p in table["density"].unique()}
        table["loss_over_naive"] = table["held_out_loss"] / table["density"].map(naive)
        closed = neurons.closed_sides(W_in, W_out, torch.from_numpy(answer.parameters("b_out")))
        table["closed_sides"] = closed[:, : M // 2].float().sum(-1).numpy() / M
        renamed = neurons.relabelled(W_in, W_out, torch.Generator().manual_seed(0))
        for ratio in RATIOS:
            found = neurons.asymmetric_motifs(W_in, W_out, ratio=ratio)
            elsewhere = neurons.asymmetric_motifs(*renamed, ratio=ratio)
            table["shared"], table[f"asymmetric_{ratio:g}"] = found.shared.numpy(), found.asymmetric.numpy()
            table[f"motifs_{ratio:g}"] = found.inhibited.numpy()
            table[f"motifs_{ratio:g}_by_chance"] = found.by_chance.numpy()
            table[f"motifs_{ratio:g}_renamed"] = elsewhere.inhibited.numpy()
    return table


def by_density(table: pd.DataFrame, values: pd.Series, level: float = 0.95) -> dict[float, stats.Interval]:
    return {p: stats.mean(values[table["density"] == p], level) for p in sorted(table["density"].unique())[::-1]}


def polysemantic(table: pd.DataFrame, p: float, rules=tuple(RULES)) -> stats.Verdict:
    here = table[table["density"] == p]
    return stats.every(*(stats.decide(stats.mean(here[f"{rule}_many"]), (0.5, np.inf)) for rule in rules))


def monosemantic(table: pd.DataFrame, p: float = 1, rules=tuple(RULES)) -> stats.Verdict:
    here = table[table["density"] == p]
    return stats.every(*(stats.decide(stats.mean(here[f"{rule}_one_of_live"]), (0.9, np.inf)) for rule in rules))


def claims(table: pd.DataFrame) -> dict[str, stats.Verdict]:
    """The verdicts that can be had from one sweep of the large network."""
    densities = table["density"].unique()
    level = 1 - 0.05 / len(densities)

    def at_some(values: pd.Series, region: tuple[float, float]) -> stats.Verdict:
        return stats.some(*(stats.decide(found, region) for found in by_density(table, values, level).values()))

    excess = {(ratio, null): by_density(table, table[f"motifs_{ratio:g}"] - table[f"motifs_{ratio:g}{null}"], level)
              for ratio in RATIOS for null in ("_by_chance", "_renamed")}  # fmt: skip
    motif = [stats.every(*(stats.decide(found[p], (1, np.inf)) for found in excess.values())) for p in densities]
    found = {"polysemantic_when_sparse": polysemantic(table, 0.001)}
    if 1 in densities:
        found["monosemantic_when_dense"] = monosemantic(table)
    found["beats_naive"] = at_some(table["loss_over_naive"], (-np.inf, 1))
    found["more_features_than_naive"] = at_some(table["recovered"], (M / 2, np.inf))
    return found | {"asymmetric_motif_found": stats.some(*motif)}


def main(run: report.Run) -> None:
    grids = grids_of(run)
    scores = [measure.held_out_loss, measure.recovered]
    answers = sweep(grids, scores, results=run.results, device=run.device, workers=run.workers)
    tables = {name: with_neurons(answer) for name, answer in answers.items()}
    small, large, privileged = tables["small"], tables["large"], tables["privileged"]
    verdict = claims(large)
    verdict["monosemantic_when_dense"] = stats.every(verdict["monosemantic_when_dense"], monosemantic(small))

    verdict["beats_naive_lr_0.01"] = claims(tables["lr 0.01, cosine"])["beats_naive"]

    generator, above = torch.Generator().manual_seed(1), {}
    for name in ("privileged", "linear", "linear, descent"):
        table, W = tables[name], torch.from_numpy(answers[name].parameters("W"))
        table["alignment"] = neurons.alignment(W).numpy()
        table["rotated"] = neurons.alignment(neurons.rotated(W, generator)).numpy()
        above[name] = by_density(table, table["alignment"] - table["rotated"])
    of_linear = {p: stats.ratio(rows["alignment"], tables["linear"].query("density == @p")["alignment"])
                 for p, rows in privileged.groupby("density")}  # fmt: skip
    verdict["privileged_basis_aligned"] = stats.every(*(stats.decide(r, (1, np.inf)) for r in of_linear.values()))
    differences = above["privileged"].values()
    verdict["privileged_basis_above_rotated"] = stats.every(*(stats.decide(d, (0, np.inf)) for d in differences))
    rules = ("served_0.1", "served_0.25")
    sparsest = privileged["density"].min()
    verdict["privileged_basis_turns_polysemantic"] = stats.every(
        monosemantic(privileged, rules=rules), polysemantic(privileged, sparsest, rules)
    )

    exact = (small["held_out_loss"] < 1e-3).sum()
    statistics = {"n3_m6_exact": stats.share(int(exact), len(small)),
                  "n3_m6_one_feature_neurons": stats.mean(small["served_0.1_one_of_live"])}  # fmt: skip
    shown = {"polysemantic": "served_0.1_many", "features_per_neuron": "features_per_neuron",
             "loss_over_naive": "loss_over_naive", "features_computed": "recovered", "motifs": "motifs_2",
             "motifs_by_chance": "motifs_2_by_chance"}  # fmt: skip
    for name, column in shown.items():
        statistics |= {f"{name}_p{p:g}": found for p, found in by_density(large, large[column]).items()}
    statistics |= {f"alignment_above_rotated_p{p:g}": found for p, found in above["privileged"].items()}
    statistics |= {f"alignment_over_linear_p{p:g}": found for p, found in of_linear.items()}

    controls: dict = {f"alignment above rotated: {name}": {f"p{p:g}": found for p, found in above[name].items()}
                      for name in ("linear", "linear, descent")}  # fmt: skip
    for name in ("large", "symmetric start", "lr 0.01, cosine", "twice as long"):
        table = tables[name]
        columns = ["loss_over_naive", "recovered", "features_per_neuron", "closed_sides", "shared", "asymmetric_2"]
        columns += [f"{rule}_{kind}" for rule in RULES for kind in ("none", "one", "many")]
        columns += [f"motifs_{ratio:g}{null}" for ratio in RATIOS for null in ("", "_by_chance", "_renamed")]
        means = {c: {f"p{p:g}": found for p, found in by_density(table, table[c]).items()} for c in columns}
        ratios = table.groupby("density")["loss_over_naive"]
        seeds = {"below": lambda r: int((r < 1).sum()), "of": len, "best": lambda r: float(r.min())}
        naive = {f"p{p:g}": {key: count(r) for key, count in seeds.items()} for p, r in ratios}
        controls[name] = {"verdict": claims(table), "seeds_against_naive": naive, **means}
    controls["privileged"] = {
        column: {f"p{p:g}": found for p, found in by_density(privileged, privileged[column]).items()}
        for column in [f"{rule}_{kind}" for rule in RULES for kind in ("one", "many")]
    }
    best = privileged.loc[privileged.groupby("density")["held_out_loss"].idxmin()].set_index("density")
    controls["privileged, best seed"] = {
        f"p{p:g}": {kind: round(5 * row[f"served_0.1_{kind}"]) for kind in ("none", "one", "many")}
        for p, row in best.iterrows()
    }
    engine = ", ".join(sorted({e for answer in answers.values() for e in answer.table["engine"]}))
    figure = draw(tables, answers["large"], statistics)
    report.write(run, figure, statistics=statistics, verdict=verdict, controls=controls, engine=engine,
                 instances=sum(map(len, grids.values())), steps=max(grid.setting.steps for grid in grids.values()),
                 seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def over_density(ax, table: pd.DataFrame, y: str, hue: str, colours: dict, **labels) -> None:
    """A line in its band for each value of `hue`."""
    plots.band(ax, table, "density", y, hue, colours=colours)
    along(ax, table, **labels)


def along(ax, table: pd.DataFrame, **labels) -> None:
    """Density as the horizontal axis, dense data at the left."""
    ax.set_xscale("log")
    ticks = [p for p in (1, 0.1, 0.01, 0.001) if p >= table["density"].min()]
    ax.set_xticks(ticks, [f"{p:g}" for p in ticks])
    ax.minorticks_off()
    ax.set(xlim=(1.2, table["density"].min() / 1.2), xlabel="density p = 1 - S", **labels)


def shares(ax, table: pd.DataFrame, title: str, legend: str) -> None:
    """Shares of neurons by how many features they serve; the other rules' dashed."""
    names = {"one": "one feature", "many": "two or more", "none": "none (dead)"}
    colours = plots.category_colours(names.values())
    long = table.melt("density", [f"served_0.1_{kind}" for kind in names], "serves", "share")
    long["serves"] = long["serves"].str.rpartition("_")[2].map(names)
    over_density(ax, long, "share", "serves", colours, ylabel="share of neurons", title=title, ylim=(-0.02, 1.02))
    for rule in list(RULES)[1:]:
        for kind in ("one", "many"):
            means = table.groupby("density")[f"{rule}_{kind}"].mean()
            ax.plot(means.index, means, color=colours[names[kind]], linewidth=0.8, linestyle="--", zorder=1)
    ax.plot([], [], color=plots.GREY, linewidth=0.8, linestyle="--", label="by other rules")
    ax.legend(title="serves", loc=legend)


def draw(tables: dict[str, pd.DataFrame], large: Results, statistics: dict[str, stats.Interval]) -> plots.Figure:
    """Neuron stacks of the best networks; shares of neurons; what is computed against no superposition; the motif."""
    figure, axes = plots.figure(3, 3, width=14, height=4)
    table = tables["large"]
    W_in, W_out = weights_of(large)
    densities = sorted(table["density"].unique())[::-1]
    for ax, p in zip(axes[0], [densities[0], min(densities, key=lambda d: abs(d - 0.1)), densities[-1]], strict=True):
        best = table.loc[table["density"] == p, "loss_over_naive"].idxmin()
        counts = neurons.served(W_in[best], W_out[best]).sum(0).numpy()
        plots.neuron_stacks(ax, W_in[best].numpy(), alive=counts > 0)
        ax.set_title(
            f"p = {p:g}, best seed: {(counts == 1).sum()} neurons serve\none feature, {(counts > 1).sum()} several"
        )
    axes[0, 0].legend(loc="upper right")

    shares(axes[1, 0], table, f"|x|, n = {N}, m = {M}", "center left")
    variants = {"open start": "large", "lr 0.01, cosine": "lr 0.01, cosine", "symmetric start": "symmetric start"}
    both = pd.concat({name: tables[key] for name, key in variants.items()}, names=["start", None]).reset_index("start")
    colours = plots.category_colours(variants)
    over_density(axes[1, 1], both, "recovered", "start", colours, ylabel="features computed, sum of R$^2$",
                 ylim=(0, None), title="Features computed")  # fmt: skip
    for name, rows in both.groupby(
        "start", sort=False
    ):  # seeds: a side that stays off makes one far worse than the next
        axes[1, 2].plot(rows["density"], rows["loss_over_naive"], "o", color=colours[name], markersize=3, alpha=0.6)
        axes[1, 2].plot(rows.groupby("density")["loss_over_naive"].median(), color=colours[name], label=name)
    along(axes[1, 2], both, yscale="log", ylabel="held-out loss / naive loss",
          title="Loss against no superposition: seeds, median")  # fmt: skip
    plots.reference(axes[1, 1], [1, 0.001], M / 2, "naive: two neurons each")
    plots.reference(axes[1, 2], [1, 0.001], 1, "naive")
    axes[1, 2].legend(loc="lower left")

    names = {"": "trained", "_by_chance": "null: random sides", "_renamed": "null: features renamed"}
    long = table.melt("density", [f"motifs_2{null}" for null in names], "of", "motifs")
    long["of"] = long["of"].str.removeprefix("motifs_2").map(names)
    over_density(axes[2, 0], long, "motifs", "of", plots.category_colours(names.values()), ylabel="motifs per network",
                 title="Asymmetric pairs with inhibition")  # fmt: skip
    axes[2, 0].set_yscale("symlog", linthresh=1)
    axes[2, 0].set_ylim(0, None)
    axes[2, 0].legend()
    shares(axes[2, 1], tables["privileged"], "x through ReLU neurons, n = 10, m = 5", "center right")
    names = {"alignment": "ReLU neurons", "rotated": "rotated (null)", "linear": "linear hidden layer"}
    linear = tables["linear"][["density", "alignment"]].rename(columns={"alignment": "linear"})
    long = (
        pd.concat([tables["privileged"], linear]).melt("density", list(names), "of", "aligned").replace({"of": names})
    )
    over_density(axes[2, 2], long, "aligned", "of", plots.category_colours(names.values()),
                 title="Features on neurons, n = 10, m = 5", ylabel="mean max$_k$ |W$_{ik}$| / |W$_i$|")  # fmt: skip
    axes[2, 2].legend()
    dense, sparse = (statistics[f"polysemantic_p{p:g}"].value for p in (densities[0], densities[-1]))
    most = max((statistics[f"features_computed_p{p:g}"].value, p) for p in densities)
    figure.suptitle(
        f"{dense:.0%} of neurons serve several features at p = {densities[0]:g}, {sparse:.0%} at {densities[-1]:g}; "
        f"{M} neurons compute up to {most[0]:.1f} features (p = {most[1]:g}), {M // 2} without superposition",
        fontsize=14,
    )
    return figure


if __name__ == "__main__":
    report.experiment(main)
