"""Computing |x| with fewer neurons than it takes: from neurons of one meaning to neurons of many.

"Computation in superposition" and "Superposition in a privileged basis" of Elhage et al. 2022. h = ReLU(W1 x) without
bias, y = ReLU(W2 h + b), y = |x|, x ~ U[-1, 1] with probability p = 1 - S: n = 3, m = 6 at p = 1; n = 100, m = 40,
I = 0.8^i over p. And h = ReLU(W x), x' = ReLU(W^T h + b), x ~ U[0, 1], n = 10, m = 5, I = 0.75^i. AdamW as in their
notebook. The start of W2 is not stated there: from a symmetric one (a control) half of all sides of outputs start off
and, at small p, stay off; so here W2 starts as 0.1 |xavier_normal| (chosen on seeds 0 and 1 of the eight). A neuron
serves a feature if the slope it gives to it, or |W1| as in the paper's pictures, is above 0.1 or 0.25 of its largest:
2 x 2 rules, which must agree. `beats_naive_lr_0.01` was added once `beats_naive` was seen to be undecided. Linear
networks trained by Adam turn off their axes (its steps depend on the basis); control: gradient descent, whose don't.
Two cores: --quick a minute, default 5 to 8 minutes.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from toysup import measure, neurons, plots, stats
from toysup.features import SparseUniform
from toysup.models import MLP, TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.study import Claim, Finding, Run, Study, experiment
from toysup.sweep import Grid
from toysup.tasks import AbsoluteValue, Identity
from toysup.theory import monosemantic_loss

QUESTION = "Do networks compute |x| of more features than their neurons allow, and what do single neurons then do?"
N, M, IMPORTANCE = 100, 40, 0.8 ** np.arange(100)
RULES = {f"{rule.__name__}_{theta}": (rule, theta) for rule in (neurons.served, neurons.drawn) for theta in (0.1, 0.25)}
PAPER, FAST = Adam(weight_decay=0.01), Adam(lr=0.01, weight_decay=0.01, schedule=Cosine())
DESCENT = Adam(lr=300.0, eps=1000.0)  # eps above any gradient's size: gradient descent with momentum at rate 0.3
LARGE = {"": "large", "_lr_0.01": "lr 0.01, cosine", "_symmetric_start": "symmetric start", "_twice_as_long": "longer"}
NULLS = {"": "trained", "_by_chance": "null: random sides", "_renamed": "null: features renamed"}
SHOWN = {"polysemantic": "served_0.1_many", "features_per_neuron": "features_per_neuron", "motifs": "motifs_2",
         "loss_over_naive": "loss_over_naive", "features_computed": "recovered",
         "motifs_by_chance": "motifs_2_by_chance"}  # fmt: skip


class Cell(NamedTuple):
    networks_of: str


def study(run: Run) -> Study:
    size = run.sizes(
        dict(steps=10_000, batch=1024, seeds=8, small=256, relu=96, linear=64, descent=32, some=(1, 0.1, 0.01, 0.001),
             many=(1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001), stored=(1, 0.3, 0.1, 0.03, 0.01)),
        quick=dict(steps=3000, batch=512, seeds=3, small=64, relu=32, linear=32, descent=16, many=(1, 0.1, 0.01, 1e-3)),
        smoke=dict(steps=20, batch=64, seeds=2, small=4, relu=3, linear=3, descent=3, some=(0.001,), many=(1, 0.001),
                   stored=(1, 0.01)), full=dict(relu=1000))  # fmt: skip

    def grid(n: int, model: Model, densities, seeds: int = size.seeds, optimizer=PAPER, longer: int = 1) -> Grid:
        task = Identity(0.75 ** np.arange(n)) if n == 10 else AbsoluteValue(IMPORTANCE if n == N else 1.0)
        features = SparseUniform(n, 1.0, signed=n != 10)
        setting = Setting(features, task, model, optimizer, size.steps * longer, size.batch)
        return Grid(setting, {"features.density": list(densities), "seed": range(seeds)})

    small, symmetric, mlp = (Model(MLP, width=width, hidden_bias=False, open_start=start)
                             for width, start in ((6, 0.1), (M, None), (M, 0.1)))  # fmt: skip
    relu, linear = (Model(TiedAutoencoder, width=5, hidden_relu=hidden) for hidden in (True, False))
    grids = {
        "small": grid(3, small, [1], size.small), "large": grid(N, mlp, size.many),
        "symmetric start": grid(N, symmetric, size.some), "lr 0.01, cosine": grid(N, mlp, size.some, optimizer=FAST),
        "longer": grid(N, mlp, [p for p in size.some if p != 1], longer=2),
        "relu": grid(10, relu, size.stored, size.relu), "linear": grid(10, linear, size.stored, size.linear),
        "linear, descent": grid(10, linear, size.stored, size.descent, DESCENT),
    }  # fmt: skip
    claims = [one for suffix, of in LARGE.items() for one in of_large(suffix, of, grids[of].axes["features.density"])]
    slopes, where = ("served_0.1", "served_0.25"), {"networks_of": "relu"}
    claims += [
        Claim("privileged_basis_aligned", "features lie more on ReLU neurons than on the axes of a linear layer",
              "alignment.over_linear", (1, np.inf), least="default"),
        Claim("privileged_basis_above_rotated", "features lie more on ReLU neurons than if that layer is rotated",
              "alignment.above_rotated", (0, np.inf)),
        Claim("privileged_basis_turns_polysemantic", "ReLU neurons for x serve one feature at p = 1, several at 0.01",
              lambda rows: stats.every(
                  above(0.9, rows, "one_of_live", 1, slopes), above(0.5, rows, "many", 0.01, slopes)),
              where=where, least="default"),
    ]  # fmt: skip
    findings = {
        "small": Finding(lambda rows: {"exact": stats.share((rows["held_out_loss"] < 1e-3).sum(), len(rows)),
                                       "one_feature_neurons": stats.mean(rows["served_0.1_one_of_live"])},
                         named="n3_m6_{column}", where={"networks_of": "small"}),
        "large": Finding(lambda rows: {name: stats.mean(rows[column]) for name, column in SHOWN.items()}, "density",
                         "{column}_p{density:g}", {"networks_of": "large"}),
        "linear": Finding(lambda rows: rows["alignment"], "density", where={"networks_of": "linear"}),
        "alignment": Finding(lambda rows, linear: {"above_rotated": stats.mean(rows["above_rotated"]),
                                                   "over_linear": stats.ratio(rows["alignment"], linear)},
                             "density", "alignment_{column}_p{density:g}", where),
        "all": Finding(everything, ("networks_of", "density")),
    }  # fmt: skip
    return Study([Cell(name) for name in grids], lambda cell: grids[cell.networks_of], derive=served_by, draw=draw,
                 measures=[measure.held_out_loss, measure.recovered], findings=findings, claims=claims,
                 answer=answer)  # fmt: skip


def above(least: float, rows: pd.DataFrame, share: str, p: float | None = None, rules=tuple(RULES)) -> stats.Verdict:
    """Whether a mean share of neurons is above `least`, by each of the rules."""
    rows = rows if p is None else rows[rows["density"] == p]
    return stats.every(*(stats.decide(stats.mean(rows[f"{rule}_{share}"]), (least, np.inf)) for rule in rules))


def of_large(suffix: str, networks: str, densities: list) -> list[Claim]:
    """What is claimed of the large networks, and as a control of others; "at some p" is corrected for their number."""
    level, where, of = 1 - 0.05 / len(densities), {"networks_of": networks}, f" ({networks})" * bool(suffix)
    dense = {"networks_of": ["large", "small"] if not suffix else [networks], "density": [1]}

    def motifs(rows: pd.DataFrame) -> stats.Verdict:
        more = [rows[f"motifs_{r}"] - rows[f"motifs_{r}{null}"] for r in (2, 3) for null in ("_by_chance", "_renamed")]
        return stats.every(*(stats.decide(stats.mean(one, level), (1, np.inf)) for one in more))

    some = {"by": "density", "where": where, "combine": stats.some}
    return [
        Claim(f"monosemantic_when_dense{suffix}", f"at p = 1 over 90% of live neurons serve one feature{of}",
              lambda rows: above(0.9, rows, "one_of_live"), by="networks_of", where=dense, least="default"),
        Claim(f"polysemantic_when_sparse{suffix}", f"at p = 0.001 over half of the neurons serve several features{of}",
              lambda rows: above(0.5, rows, "many"), where={**where, "density": [0.001]}),
        Claim(f"beats_naive{suffix}", f"at some p the loss is below that of the best without superposition{of}",
              lambda rows: stats.mean(rows["loss_over_naive"], level), (-np.inf, 1), **some),
        Claim(f"more_features_than_naive{suffix}", f"at some p more than {M // 2} features are computed{of}",
              lambda rows: stats.mean(rows["recovered"], level), (M / 2, np.inf), **some),
        Claim(f"asymmetric_motif_found{suffix}", f"at some p an unequal pair of features has an inhibiting neuron more "
              f"often than with random sides or renamed features{of}", motifs, **some),
    ]  # fmt: skip


def weights_of(trained) -> tuple[torch.Tensor, torch.Tensor]:
    """(W_in, W_out) as `measure.neurons` wants them."""
    own = trained.parameters
    return (own["W"].clamp(min=0), own["W"].mT) if "W" in own else (own["weights.0"], own["W_out"])


def served_by(table: pd.DataFrame, networks) -> pd.DataFrame:
    """Each network's shares of dead, one-feature and many-feature neurons by every rule, its motifs, and the nulls."""
    parts = []
    for name, rows in table.groupby("networks_of", sort=False):
        trained = networks(rows)
        W_in, W_out = weights_of(trained)
        found = {"features_per_neuron": neurons.effective_features(W_in, W_out).mean(-1)}
        for rule, (function, theta) in RULES.items():
            counts = function(W_in, W_out, theta).sum(-2)
            found |= {f"{rule}_none": (counts == 0).float().mean(-1), f"{rule}_one": (counts == 1).float().mean(-1),
                      f"{rule}_many": (counts > 1).float().mean(-1),
                      f"{rule}_one_of_live": (counts == 1).sum(-1) / (counts > 0).sum(-1).clamp(min=1)}  # fmt: skip
        if name in LARGE.values():
            naive = {p: monosemantic_loss(IMPORTANCE, p, M) for p in rows["density"].unique()}
            rows = rows.assign(loss_over_naive=rows["held_out_loss"] / rows["density"].map(naive))
            closed = neurons.closed_sides(W_in, W_out, trained.parameters["b_out"])
            found["closed_sides"] = closed[:, : M // 2].float().sum(-1) / M
            renamed = neurons.relabelled(W_in, W_out, torch.Generator().manual_seed(0))
            for ratio in (2, 3):
                own, other = (neurons.asymmetric_motifs(*pair, ratio=ratio) for pair in ((W_in, W_out), renamed))
                found |= {"shared": own.shared, f"asymmetric_{ratio}": own.asymmetric}
                found |= {f"motifs_{ratio}": own.inhibited, f"motifs_{ratio}_by_chance": own.by_chance,
                          f"motifs_{ratio}_renamed": other.inhibited}  # fmt: skip
        elif name != "small":
            W = trained.parameters["W"]
            turned = neurons.rotated(W, torch.Generator().manual_seed(1))
            found |= {"alignment": neurons.alignment(W), "rotated": neurons.alignment(turned)}
            found["above_rotated"] = found["alignment"] - found["rotated"]
        parts.append(rows.assign(**{column: values.numpy() for column, values in found.items()}))
    return pd.concat(parts)


def everything(rows: pd.DataFrame) -> dict:
    """Means of all that is known, how many seeds beat the naive network, and how the best seed's neurons are shared."""
    known, best = rows.loc[:, "cell":].iloc[:, 1:].dropna(axis=1), rows.loc[rows["held_out_loss"].idxmin()]
    return {**{column: stats.mean(known[column]) for column in known}, "best_seed_one": best["served_0.1_one"],
            "best_seed_many": best["served_0.1_many"], "best_loss_over_naive": rows["loss_over_naive"].min(),
            "seeds_below_naive": int((rows["loss_over_naive"] < 1).sum())}  # fmt: skip


def answer(large: dict) -> str:
    densities = sorted(large)
    most = max(own["features_computed"].value for own in large.values())
    sparse, dense = (large[p]["polysemantic"].value for p in (densities[0], densities[-1]))
    return (f"{M} neurons compute |x| of up to {most:.0f} features, {M // 2} without superposition; of neurons, "
            f"{dense:.0%} serve several where all are active, {sparse:.0%} where few are")  # fmt: skip


def over_density(ax, rows: pd.DataFrame, names: dict | None = None, y="", hue="networks_of", **labels) -> None:
    """A line in its band for each of several columns, or for `y` and each value of `hue`; dense data at the left."""
    if names:
        rows, y, hue = rows.melt("density", list(names), "of", "value").replace({"of": names}), "value", "of"
    if y:
        plots.band(ax, rows, "density", y, hue, colours=plots.category_colours(rows[hue]))
    plots.ticks(ax, x=[p for p in (1, 0.1, 0.01, 0.001) if p >= rows["density"].min()], log="x")
    ax.set(xlim=(1.2, rows["density"].min() / 1.2), xlabel="density p = 1 - S", **labels)


def shares(ax, rows: pd.DataFrame, title: str) -> None:
    """Shares of neurons by how many features they serve; the other rules' dashed."""
    kinds = {"one": "one feature", "many": "two or more", "none": "none (dead)"}
    over_density(ax, rows, {f"served_0.1_{kind}": name for kind, name in kinds.items()}, title=title,
                 ylim=(-0.02, 1.02), ylabel="share of neurons")  # fmt: skip
    means, colours = rows.groupby("density").mean(numeric_only=True), plots.category_colours(kinds)
    for column in (f"{rule}_{kind}" for rule in list(RULES)[1:] for kind in ("one", "many")):
        ax.plot(means[column], color=colours[column.rpartition("_")[2]], linewidth=0.8, linestyle="--", zorder=1)
    plots.legend(ax, {"by other rules": {"linestyle": "--"}}, title="serves", loc="center right", size=9)


def draw(rows: pd.DataFrame, networks) -> plots.Figure:
    """Neuron stacks of the best networks; shares of neurons; what is computed against no superposition; the motif."""
    figure, axes = plots.figure(3, 3, width=14, height=4)
    of = dict(iter(rows.groupby("networks_of")))
    large, densities = of["large"], sorted(of["large"]["density"].unique())
    for ax, p in zip(axes[0], (densities[-1], min(densities, key=lambda d: abs(d - 0.1)), densities[0]), strict=True):
        best = large.loc[[large.loc[large["density"] == p, "loss_over_naive"].idxmin()]]
        W_in, W_out = (weights[0] for weights in weights_of(networks(best)))
        counts = neurons.served(W_in, W_out).sum(0).numpy()
        plots.neuron_stacks(ax, W_in.numpy(), alive=counts > 0)
        one, many = (counts == 1).sum(), (counts > 1).sum()
        ax.set_title(f"p = {p:g}, best seed: {one} neurons serve\none feature, {many} several")
    plots.legend(axes[0, 0], loc="upper right")
    shares(axes[1, 0], large, f"|x|, n = {N}, m = {M}")
    starts = rows[rows["networks_of"].isin(["large", "lr 0.01, cosine", "symmetric start"])]
    starts = starts.replace({"networks_of": {"large": "open start"}})
    over_density(axes[1, 1], starts, y="recovered", title="Features computed", ylim=(0, None),
                 ylabel="features computed, sum of R$^2$")  # fmt: skip
    colours = plots.category_colours(starts["networks_of"])
    plots.scatter(axes[1, 2], starts, "density", "loss_over_naive", "networks_of", colours=colours)
    for name, own in starts.groupby("networks_of"):  # a side that stays off makes a seed far worse than the next
        axes[1, 2].plot(own.groupby("density")["loss_over_naive"].median(), color=colours[name])
    over_density(axes[1, 2], starts, yscale="log", ylabel="held-out loss / naive loss",
                 title="Loss against no superposition: seeds, median")  # fmt: skip
    plots.reference(axes[1, 1], [1, 0.001], M / 2, "naive: two neurons each")
    plots.reference(axes[1, 2], [1, 0.001], 1, "naive")
    over_density(axes[2, 0], large, {f"motifs_2{null}": name for null, name in NULLS.items()},
                 ylabel="motifs per network", title="Asymmetric pairs with inhibition")  # fmt: skip
    axes[2, 0].set_yscale("symlog", linthresh=1)
    axes[2, 0].set_ylim(0, None)
    shares(axes[2, 1], of["relu"], "x through ReLU neurons, n = 10, m = 5")
    both = pd.concat([of["relu"], of["linear"][["density", "alignment"]].rename(columns={"alignment": "linear"})])
    names = {"alignment": "ReLU neurons", "rotated": "rotated (null)", "linear": "linear hidden layer"}
    over_density(axes[2, 2], both, names,
            title="Features on neurons, n = 10, m = 5", ylabel="mean max$_k$ |W$_{ik}$| / |W$_i$|")  # fmt: skip
    for ax in (axes[1, 1], axes[2, 0], axes[2, 2]):
        plots.legend(ax, size=9)
    return figure


if __name__ == "__main__":
    experiment(study)
