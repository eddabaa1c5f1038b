"""Computing |x| with fewer neurons than it takes: from neurons of one meaning to neurons of many.

"Computation in superposition" and "Superposition in a privileged basis" of Elhage et al. 2022. h = ReLU(W1 x) without
bias, y = ReLU(W2 h + b), y = |x|, x ~ U[-1, 1] with probability p = 1 - S: n = 3, m = 6 at p = 1; n = 100, m = 40,
I = 0.8^i over p. And h = ReLU(W x), x' = ReLU(W^T h + b), x ~ U[0, 1], n = 10, m = 5, I = 0.75^i. AdamW as in their
notebook, lr 1e-3, 10,000 steps of 1024. The start of W2 is not stated there. From a symmetric one half of all sides of
outputs start off and, where features are rarely active together, stay off; so here W2 starts as 0.1 |xavier_normal|
(control "symmetric start": xavier_normal).

Rules. A neuron serves a feature if the slope it gives to it is above theta of its largest slope, theta = 0.1 and 0.25,
or, as in the paper's stacks of weights, if |W1| is; 2 x 2 rules, all of which must agree (`every`).
  monosemantic_when_dense: at p = 1, n = 3 and n = 100, the mean share of live neurons with one feature is above 0.9.
  polysemantic_when_sparse: at p = 0.001 the mean share of neurons with two features or more is above 0.5.
  beats_naive: at some p the loss is below that of the best network without superposition, which computes the 20 most
    important features exactly (`theory.monosemantic_loss`).
  more_features_than_naive: at some p sum_i max(0, R^2_i) is above 20.
  asymmetric_motif_found: at some p a network holds at least one motif (unequal pair with an inhibiting neuron,
    `measure.asymmetric_motifs`) more than each of two nulls, for unequal by 2 and by 3: neurons' sides turned round at
    random, and each neuron's features renamed.
  privileged_basis_aligned: at every p mean max_k |W_ik| / |W_i| is above the same network's, randomly rotated.
  privileged_basis_turns_polysemantic: n = 10's neurons by the first two rules' thresholds, between p = 1 and 0.01.
Intervals are over seeds, 95%; "at some p" corrects the level for the number of densities. The controls repeat the
verdicts from a symmetric start, at a tenfold rate with decay, and after twice the steps.

Two cores: --quick 40 s, default about 5 minutes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from toysup import measure, plots, report, stats
from toysup.features import SparseUniform
from toysup.models import MLP, TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, Results, sweep
from toysup.tasks import AbsoluteValue, Identity
from toysup.theory import monosemantic_loss

QUESTION = "Do networks compute |x| of more features than their neurons allow, and what do single neurons then do?"
N, M, IMPORTANCE = 100, 40, 0.8 ** np.arange(100)
RULES = {f"{rule.__name__}_{theta}": (rule, theta) for rule in (measure.served, measure.drawn) for theta in (0.1, 0.25)}
RATIOS, START = (2.0, 3.0), 0.1
PAPER, FAST = Adam(weight_decay=0.01), Adam(lr=0.01, weight_decay=0.01, schedule=Cosine())


def grids_of(run: report.Run) -> dict[str, Grid]:
    steps = run.pick(default=10_000, quick=3000, smoke=20)
    batch = run.pick(default=1024, quick=512, smoke=64)
    some = run.pick(default=[1, 0.1, 0.01, 0.001], smoke=[1, 0.001])
    many = run.pick(default=[1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001], quick=some)
    seeds = range(run.pick(default=8, quick=3, smoke=2))

    def computing(densities, *, n=N, m=M, start=START, optimizer=PAPER, longer=1, seeds=seeds):
        task = AbsoluteValue(IMPORTANCE if n == N else 1.0)
        model = Model(MLP, width=m, hidden_bias=False, open_start=start)
        setting = Setting(SparseUniform(n, 1.0, signed=True), task, model, optimizer, steps * longer, batch)
        return Grid(setting, {"features.density": densities, "seed": seeds})

    def storing(hidden_relu, count):
        model = Model(TiedAutoencoder, width=5, hidden_relu=hidden_relu)
        setting = Setting(SparseUniform(10, 1.0), Identity(0.75 ** np.arange(10)), model, PAPER, steps, batch)
        return Grid(setting, {"features.density": run.pick(default=[1, 0.3, 0.1, 0.03, 0.01], smoke=[1, 0.01]),
                              "seed": range(count)})  # fmt: skip

    return {
        "small": computing([1], n=3, m=6, seeds=range(run.pick(default=1000, quick=64, smoke=4))),
        "large": computing(many),
        "symmetric start": computing(some, start=None),
        "lr 0.01, cosine": computing(some, optimizer=FAST),
        "twice as long": computing(some[1:], longer=2),
        "privileged": storing(True, run.pick(default=200, quick=32, smoke=3, full=1000)),
        "linear": storing(False, run.pick(default=100, quick=32, smoke=3)),
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
    table["features_per_neuron"] = measure.effective_features(W_in, W_out).mean(-1).numpy()
    if W_out.shape[-1] == N:
        naive = {p: monosemantic_loss(IMPORTANCE, p, M) for p in table["density"].unique()}
        table["loss_over_naive"] = table["held_out_loss"] / table["density"].map(naive)
        closed = measure.closed_sides(W_in, W_out, torch.from_numpy(answer.parameters("b_out")))
        table["closed_sides"] = closed[:, : M // 2].float().sum(-1).numpy() / M
        generator = torch.Generator().manual_seed(0)
        others = {"": (W_in, W_out), "_turned": (measure.turned_round(W_in, generator), W_out),
                  "_renamed": measure.relabelled(W_in, W_out, generator)}  # fmt: skip
        for ratio in RATIOS:
            for null, weights in others.items():
                found = measure.asymmetric_motifs(*weights, ratio=ratio)
                table[f"motifs_{ratio:g}{null}"] = found.inhibited.numpy()
                if not null:
                    table[f"asymmetric_{ratio:g}"], table["shared"] = found.asymmetric.numpy(), found.shared.numpy()
    return table


def by_density(table: pd.DataFrame, values: pd.Series, level: float = 0.95) -> dict[float, stats.Interval]:
    return {p: stats.mean(values[table["density"] == p], level) for p in sorted(table["density"].unique())[::-1]}


def polysemantic(table: pd.DataFrame, p: float, rules=tuple(RULES)) -> stats.Verdict:
    here = table[table["density"] == p]
    return stats.every(*(stats.decide(stats.mean(here[f"{rule}_many"]), (0.5, 1)) for rule in rules))


def monosemantic(table: pd.DataFrame, p: float = 1, rules=tuple(RULES)) -> stats.Verdict:
    here = table[table["density"] == p]
    return stats.every(*(stats.decide(stats.mean(here[f"{rule}_one_of_live"]), (0.9, 1)) for rule in rules))


def claims(table: pd.DataFrame) -> dict[str, stats.Verdict]:
    """The verdicts that can be had from one sweep of the large network."""
    densities = table["density"].unique()
    level = 1 - 0.05 / len(densities)

    def at_some(values: pd.Series, region: tuple[float, float]) -> stats.Verdict:
        return stats.some(*(stats.decide(found, region) for found in by_density(table, values, level).values()))

    excess = {(ratio, null): by_density(table, table[f"motifs_{ratio:g}"] - table[f"motifs_{ratio:g}{null}"], level)
              for ratio in RATIOS for null in ("_turned", "_renamed")}  # fmt: skip
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

    generator = torch.Generator().manual_seed(1)
    for name in ("privileged", "linear"):
        W = torch.from_numpy(answers[name].parameters("W"))
        tables[name]["alignment"] = measure.alignment(W).numpy()
        tables[name]["rotated"] = measure.alignment(measure.rotated(W, generator)).numpy()
    above = {name: by_density(tables[name], tables[name]["alignment"] - tables[name]["rotated"])
             for name in ("privileged", "linear")}  # fmt: skip
    aligned = [stats.decide(found, (0, np.inf)) for found in above["privileged"].values()]
    verdict["privileged_basis_aligned"] = stats.every(*aligned)
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
             "motifs_turned": "motifs_2_turned"}  # fmt: skip
    for name, column in shown.items():
        statistics |= {f"{name}_p{p:g}": found for p, found in by_density(large, large[column]).items()}
    statistics |= {f"alignment_above_rotated_p{p:g}": found for p, found in above["privileged"].items()}

    controls: dict = {"linear_alignment_above_rotated": {f"p{p:g}": found for p, found in above["linear"].items()}}
    for name in ("large", "symmetric start", "lr 0.01, cosine", "twice as long"):
        table = tables[name]
        columns = ["loss_over_naive", "recovered", "features_per_neuron", "closed_sides", "shared", "asymmetric_2"]
        columns += [f"{rule}_{kind}" for rule in RULES for kind in ("none", "one", "many")]
        columns += [f"motifs_{ratio:g}{null}" for ratio in RATIOS for null in ("", "_turned", "_renamed")]
        means = {c: {f"p{p:g}": found for p, found in by_density(table, table[c]).items()} for c in columns}
        best = {f"p{p:g}": rows["loss_over_naive"].min() for p, rows in table.groupby("density")}
        controls[name] = {"verdict": claims(table), "best_seed_loss_over_naive": best, **means}
    controls["privileged"] = {
        column: {f"p{p:g}": found for p, found in by_density(privileged, privileged[column]).items()}
        for column in [f"{rule}_{kind}" for rule in RULES for kind in ("one", "many")]
    }
    engine = ", ".join(sorted({e for answer in answers.values() for e in answer.table["engine"]}))
    figure = draw(tables, answers["large"], statistics)
    report.write(run, figure, statistics=statistics, verdict=verdict, controls=controls, engine=engine,
                 instances=sum(map(len, grids.values())), steps=max(grid.setting.steps for grid in grids.values()),
                 seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def lines(ax, table: pd.DataFrame, columns: dict[str, str], ylabel: str, title: str, linestyle: str = "-") -> None:
    """A line in its band for each column, dense data at the left."""
    long = table.melt("density", list(columns), "kind", ylabel).replace({"kind": columns})
    before = len(ax.lines)
    plots.band(ax, long, "density", ylabel, "kind", colours=plots.category_colours(columns.values()))
    for line in ax.lines[before:]:
        line.set_linestyle(linestyle)
    ax.set_xscale("log")
    ax.set_xlim(1.2 * table["density"].max(), table["density"].min() / 1.2)
    ax.set(xlabel="density p = 1 - S", title=title)


def draw(tables: dict[str, pd.DataFrame], large: Results, statistics: dict[str, stats.Interval]) -> plots.Figure:
    """Neuron stacks of the best networks; shares of neurons; what is computed against no superposition; the motif."""
    figure, axes = plots.figure(3, 3, width=14, height=4)
    table, other = tables["large"], tables["symmetric start"]
    W_in, W_out = weights_of(large)
    densities = sorted(table["density"].unique())[::-1]
    for ax, p in zip(axes[0], [densities[0], min(densities, key=lambda d: abs(d - 0.1)), densities[-1]], strict=True):
        best = table.loc[table["density"] == p, "loss_over_naive"].idxmin()
        counts = measure.served(W_in[best], W_out[best]).sum(0).numpy()
        plots.neuron_stacks(ax, W_in[best].numpy(), alive=counts > 0)
        ax.set_title(f"p = {p:g}: {(counts == 1).sum()} neurons serve one feature, {(counts > 1).sum()} several")
    axes[0, 0].legend(loc="upper right")

    kinds = ("one", "many", "none")
    names = dict(zip(kinds, ("one feature", "two or more", "none (dead)"), strict=True))
    share = "share of neurons"
    lines(axes[1, 0], table, {f"served_0.1_{kind}": names[kind] for kind in kinds}, share, f"|x|, n = {N}, m = {M}")
    axes[1, 0].legend(title="serves", loc="center left")
    for rule in list(RULES)[1:]:
        for kind, colour in zip(kinds[:2], plots.category_colours(kinds).values(), strict=False):
            means = table.groupby("density")[f"{rule}_{kind}"].mean()
            axes[1, 0].plot(means.index, means, color=colour, linewidth=0.8, linestyle="--", zorder=1)
    for column, ax in (("recovered", axes[1, 1]), ("loss_over_naive", axes[1, 2])):
        both = pd.concat({"open start": table, "symmetric start": other}, names=["start", None]).reset_index("start")
        plots.band(ax, both, "density", column, "start", colours=plots.category_colours(both["start"].unique()))
        ax.set_xscale("log")
        ax.set_xlim(1.2, 0.001 / 1.2)
        ax.set_xlabel("density p = 1 - S")
        ax.legend()
    best = table.groupby("density")["loss_over_naive"].min()
    axes[1, 2].plot(best.index, best, "x", color="black", label="best seed")
    axes[1, 2].legend()
    axes[1, 2].set(yscale="log", ylabel="held-out loss / naive loss", title="Loss against no superposition")
    axes[1, 1].set(ylabel="features computed, sum of R$^2$", ylim=(0, None), title="Features computed")
    plots.reference(axes[1, 1], [1, 0.001], M / 2, "naive: two neurons each")
    plots.reference(axes[1, 2], [1, 0.001], 1, "naive")

    lines(axes[2, 0], table, {"motifs_2": "trained"}, "motifs per network", "Asymmetric pairs with inhibition")
    for null, style in (("_turned", ":"), ("_renamed", "-.")):
        means = table.groupby("density")[f"motifs_2{null}"].mean()
        label = {"_turned": "null: sides turned round", "_renamed": "null: features renamed"}[null]
        axes[2, 0].plot(means.index, means, color=plots.GREY, linestyle=style, label=label)
    axes[2, 0].legend()
    lines(axes[2, 1], tables["privileged"], {f"served_0.1_{kind}": names[kind] for kind in kinds}, share,
          "x through ReLU neurons, n = 10, m = 5")  # fmt: skip
    axes[2, 1].legend(title="serves", loc="center left")
    align = "mean max$_k$ |W$_{ik}$| / |W$_i$|"
    lines(axes[2, 2], tables["privileged"], {"alignment": "ReLU neurons", "rotated": "the same, rotated (null)"}, align,
          "Features on neurons, n = 10, m = 5")  # fmt: skip
    linear = tables["linear"].groupby("density")["alignment"].mean()
    axes[2, 2].plot(linear.index, linear, ":", color=plots.GREY, label="linear hidden layer")
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
