"""How many sparse features do m neurons hold, against every fair reference?

Katta's note (2024) takes from compressed sensing, by way of Elhage et al. 2022, that m neurons hold n features only
while m = Omega(-n (1-S) ln(1-S)): n/m = c / (p ln 1/p) at density p = 1 - S, with c unknown. Measured: capacity per
neuron kappa(p) = sup_n F_eff / m of ReLU autoencoders, tied and untied (F_eff = sum of max(0, R^2)), and F(theta) / m.
References, as features per neuron: 1/(p ln 1/p) (a shape); 1/p (as many active as neurons); the non-negative l1
threshold (average case); the Bayes-optimal AMP threshold (the ceiling); one-step ReLU decoding of a unit-norm tight
frame, sampled at the same n, m, p (like for like, if a tied network treats all features alike); 1 (linear, PCA).
One trained code is read by six decoders, on learned and on random unit rows: does dictionary or decoder make the gap?

Loads, steps and batch are from pilots. Added after a first run: one_step_slope. That run also showed that ignored
features added noise to `recovered` (2% of a feature each): all was run anew with the measure corrected.
Two cores: --quick about a minute, default about 14.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from toysup import decoders, plots, stats
from toysup.ensemble import Trained
from toysup.features import SparseUniform
from toysup.measure import encoding_of, recovered, recovered_at
from toysup.models import TiedAutoencoder, UntiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.study import Check, Claim, Finding, Run, Search, Study, Variant, bracketed, experiment, moves
from toysup.sweep import Grid
from toysup.tasks import Identity
from toysup.theory import bayes_amp_ratio, elhage_ratio, inverse_density, l1_ratio, one_step_r2, one_step_ratio

QUESTION = "How many sparse features does a neuron hold, and which bound do networks obey?"
MODELS = {"tied": TiedAutoencoder, "untied": UntiedAutoencoder}
DECODERS = ("linear_probe", "affine_relu", "matching_pursuit", "l1_homotopy", "bayes_amp")
ALL = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
CELLS = {8: ALL, 16: ALL, 32: ALL[:5], 64: ALL[:3], 128: ALL[:1]}  # what two cores train in a quarter of an hour
REFERENCES = {"": (elhage_ratio, "--", "1/(p ln 1/p)"), "_one_over_p": (inverse_density, ":", "1/p"),
              "_l1": (l1_ratio, "-.", "l1, non-negative"),
              "_bayes_amp": (bayes_amp_ratio, "-", "Bayes-AMP (ceiling)")}  # fmt: skip
CELL = ["model", "m", "p"]
Found = dict[str, stats.Interval]


class Cell(NamedTuple):
    model: str
    m: int
    p: float


def offered(m: int, p: float, load: float = 1.0) -> int:
    """n at a load in units of 1/(p ln 1/p) features per neuron."""
    return max(m, round(load * m * float(elhage_ratio(p))))


def study(run: Run) -> Study:
    size = run.sizes(dict(cells=CELLS, steps=None, loads=[0.5, 1.0, 2.0], seeds=8, extend=2, samples=512, few=None,
                          longer=((16, 0.05), (16, 0.01), (8, 0.002)), read=(32, 0.05)),
                     quick=dict(cells={16: (0.2, 0.05, 0.02)}, steps=1000, seeds=4, longer=[(16, 0.05)],
                                read=(16, 0.05)),
                     smoke=dict(cells={8: (0.2, 0.1)}, steps=20, loads=[1.0, 2.0], seeds=2, extend=0, samples=64, few=1,
                                longer=[(8, 0.2)], read=(8, 0.2)))  # fmt: skip

    def setting(cell: Cell) -> Setting:
        """Load 1; sparser data are trained longer."""
        steps, optimizer = size.steps or (1500 if cell.p >= 0.05 else 4000), Adam(beta2=0.99, schedule=Cosine())
        features = SparseUniform(offered(cell.m, cell.p), cell.p)
        return Setting(features, Identity(), Model(MODELS[cell.model], width=cell.m), optimizer, steps, 256)

    def grid(cell: Cell) -> Grid:
        """From under to far over capacity; the smallest networks get one more, where they can be trained."""
        loads = size.loads + [4.0] * (cell.m == 8 and cell.p > ALL[-1])
        return Grid(setting(cell), {"features.n_features": [offered(cell.m, cell.p, load) for load in loads]})

    def twice(grid: Grid) -> Grid:
        axes = {**grid.axes, "features.n_features": [grid.setting.features.n_features]}
        return Grid(replace(grid.setting, steps=2 * grid.setting.steps), axes)

    def one_step(m: int, p: float) -> float:
        ns = {offered(m, p, load) for load in (0.5, 0.15, 0.25, 0.35, 0.7, 1.0)[: size.few]}
        return max(n / m * one_step_r2(n, m, p, frame="tight").r2 for n in ns)

    def reading(rows: pd.DataFrame, networks: Callable[[pd.DataFrame], Trained], m: int) -> Found:
        """Recovered per neuron by dictionary and decoder."""
        code, found = encoding_of(networks(rows)), {"learned_own_decoder": stats.mean(rows["recovered"] / m)}
        for kind, encoding in (("learned", code), ("random", code.random())):
            for name in DECODERS[: size.few]:
                count = decoders.decoded_count(encoding, getattr(decoders, name), samples=size.samples)
                found[f"{kind}_{name}"] = stats.mean(count.value / m)
        return found

    def trained(name: str, where=None, **about) -> Check:
        return moves("twice the steps", longer, (1 / 1.03, 1.03), by=CELL, name=name, where=where,
                     says="twice the steps move what is recovered by less than 3%", **about)  # fmt: skip

    sound = ["never_above_bayes_amp", "largest_offer_suffices"]  # every claim rests on these, and on its own cells'
    everywhere = [*sound, "training_sufficient", "learning_rates_bracketed"]
    at_widest = [*sound, "training_sufficient_at_most_densities", "learning_rates_bracketed"]
    sparse = [*sound, "training_sufficient", "learning_rates_bracketed_where_sparse"]
    read = {"model": "tied", "m": size.read[0], "p": size.read[1], "n_features": offered(*size.read)}
    return Study(
        [Cell(model, m, p) for m, densities in size.cells.items() for p in densities for model in MODELS],
        grid, measures=[recovered, *map(recovered_at, (0.25, 0.5, 0.9))], seeds=size.seeds,
        search=Search(setting, (0.0075, 0.015, 0.03), extend=size.extend),
        variants={"twice the steps": Variant(twice, lambda cell: cell[1:] in size.longer)},
        findings={
            "held": Finding(lambda rows: stats.capacity(rows, load="n_features"), CELL, kept=False),
            "one_step": Finding(one_step, ("m", "p")),
            "kappa": Finding(lambda held, m: stats.mean(held["recovered"] / m), CELL, "kappa_{model}_m{m}_p{p:g}"),
            "beside": Finding(beside, CELL),
            "slopes": Finding(slopes, ("model", "m"), lambda column, model, m: column.replace("@", f"{model}_m{m}")),
            "reading": Finding(reading, "m", "read_{column}", read),
        },
        claims=[
            Claim("elhage_slope", "features per neuron grow as 1/(p ln 1/p): a slope in logs within 1 +- 0.1",
                  "slopes.slope_@", (0.9, 1.1), where=widest, each="elhage_slope_{model}", checks=at_widest),
            Claim("one_step_slope", "features per neuron grow as those of one-step decoding: a slope within 1 +- 0.1",
                  "slopes.slope_@_one_step", (0.9, 1.1), where=widest, each="one_step_slope_{model}", checks=at_widest),
            Claim("one_step_explains", "each cell holds what one-step decoding of a tight frame does, within 10%",
                  "beside.over_one_step", (1 / 1.1, 1.1), each="one_step_explains_{model}", checks=everywhere),
            Claim("near_bayes_amp", "each cell holds at least half of the Bayes-optimal ceiling",
                  "beside.of_ceiling", (0.5, np.inf), checks=everywhere),
            Claim("width_does_not_matter", "features per neuron at m = 32 and at m = 16 agree within 10%",
                  lambda held, model, p: over(held, (model, 32, p), (model, 16, p)), (1 / 1.1, 1.1),
                  by=CELL, least="default", checks=at_widest,
                  where=lambda table: (table["m"] == 32) & table["p"].isin(table.loc[table["m"] == 16, "p"])),
            Claim("untied_holds_more", "at densities up to 0.01 untied networks hold over 3% more than tied ones",
                  lambda held, m, p: over(held, ("untied", m, p), ("tied", m, p)), (1.03, np.inf), by=["m", "p"],
                  where=is_sparse, least="default", checks=sparse),
            Check("never_above_bayes_amp", "no cell exceeds the Bayes-optimal ceiling (a bug if one does)",
                  "beside.of_ceiling", (-np.inf, 1)),
            Check("largest_offer_suffices", "the largest n offered adds less than 3%", "beside.last_offer_adds",
                  (0, 1.03), each=lambda m: "sup_reached_m8" if m == 8 else "sup_reached"),
            trained("training_sufficient"), trained("training_sufficient_at_most_densities", widest, combine=None),
            bracketed("learning_rates_bracketed"),
            bracketed("learning_rates_bracketed_where_sparse", where=is_sparse, combine=None),
        ],
        draw=draw, answer=answer,
    )  # fmt: skip


def longer(twice: pd.DataFrame, usual: pd.DataFrame) -> stats.Interval:
    usual = usual[usual["n_features"].isin(twice["n_features"])]
    return stats.ratio(*(rows.set_index("seed")["recovered"] for rows in (twice, usual)), paired=True)


def over(held: dict[tuple, pd.DataFrame], *cells: tuple[str, int, float]) -> stats.Interval:
    return stats.ratio(*(held[cell]["recovered"] / cell[1] for cell in cells), paired=True)


def beside(rows: pd.DataFrame, held: pd.DataFrame, one_step: float, m: int, p: float) -> Found:
    """kappa against references, its controls, and features per neuron above a threshold of R^2."""
    kappa, by_offer = held["recovered"] / m, rows.pivot(index="seed", columns="n_features", values="recovered")
    found = {"over_one_step": stats.mean(kappa / one_step), "of_ceiling": stats.mean(kappa / float(bayes_amp_ratio(p))),
             "cross_validated": stats.mean(held["held_out"] / m),
             "last_offer_adds": stats.ratio(by_offer.iloc[:, -1], by_offer.iloc[:, -2], paired=True)}  # fmt: skip
    for theta in (25, 50, 90):
        counts = stats.capacity(rows, load="n_features", recovered=f"recovered_at_{theta}")["recovered"]
        found[f"R2_above_{theta}%"] = stats.mean(counts / m)
        found[f"one_step_gaussian_{theta}%"] = float(one_step_ratio(p, theta / 100))
    return found


def slopes(rows: pd.DataFrame, one_step: dict, m: int) -> Found:
    """Slope of ln kappa in ln of each reference, and the mean constant kappa / reference; nothing at one density."""
    cells = {p: stats.capacity(own, load="n_features")["recovered"] / m for p, own in rows.groupby("p", sort=False)}
    logs, p, found = np.log(np.stack(list(cells.values()))), np.array(list(cells)), {}  # density seed
    references = {name: of(p) for name, (of, *_) in REFERENCES.items()}
    references["_one_step"] = np.array([one_step[m, q] for q in cells])
    for name, reference in references.items() if len(p) > 1 else ():
        constant = stats.mean((logs - np.log(reference)[:, None]).mean(0))
        found[f"slope_@{name}"] = stats.mean(np.polyfit(np.log(reference), logs, 1)[0])
        found[f"constant_@{name}"] = stats.Interval(*np.exp([constant.value, constant.low, constant.high]))
    return found


def widest(table: pd.DataFrame) -> pd.Series:
    """Rows of the width with the most densities, the larger of two."""
    count = table.groupby("m")["p"].nunique()
    return table["m"] == max(count[count == count.max()].index)


def is_sparse(table: pd.DataFrame) -> pd.Series:
    return table["p"] <= 0.01


def answer(beside: dict) -> str:
    over = {model: [own["over_one_step"].value for key, own in beside.items() if key[0] == model] for model in MODELS}
    told = " and ".join(f"{min(own):.2f} to {max(own):.2f} times ({name})" for name, own in over.items())
    shares = [own["of_ceiling"].value for own in beside.values()]
    return (f"A neuron holds {told} as many sparse features as one step of decoding a tight frame allows, and "
            f"{min(shares):.0%} to {max(shares):.0%} of what the best possible decoder would.")  # fmt: skip


def draw(rows: pd.DataFrame, kappa: dict, one_step: dict, reading: dict, slopes: dict) -> plots.Figure:
    """Features per neuron against sparsity with every reference; ratios; saturation; who reads how much."""
    figure, ((main, ratio), (load, read)) = plots.figure(2, 2, width=13, height=4.6)
    shown, densities, colours = rows[widest(rows)], np.unique(rows["p"]), plots.category_colours(MODELS)
    m, fine = shown["m"].iloc[0], np.geomspace(densities[0], densities[-1], 16)
    steps = np.array([(p, value) for (width, p), value in one_step.items() if width == m]).T
    for ax, unit in ((main, np.ones_like), (ratio, elhage_ratio)):
        for of, style, label in REFERENCES.values():
            ax.plot(1 / fine, of(fine) / unit(fine), linestyle=style, color=plots.GREY, label=label)
        label = f"one-step decoding, m = {m}"
        ax.plot(1 / steps[0], steps[1] / unit(steps[0]), color=plots.GREY, linewidth=2.5, alpha=0.5, label=label)
        for ((model, width), own), marker in zip(rows.groupby(CELL[:2], sort=False), "oovvss^^DD", strict=False):
            p = own["p"].unique()
            found = [kappa[model, width, q] if ax is main else kappa[model, width, q].value / unit(q) for q in p]
            plots.curve(ax, 1 / p, found, color=colours[model], marker=marker, label=f"{model}, m = {width}")
        plots.ticks(ax, x={1 / p: f"{1 / p:g}" for p in densities}, log="x")
        ax.set(xlabel="1 / density = 1 / (1 - S)", yscale="log")
    plots.level(main, 1, "linear (PCA)")
    plots.ticks(ratio, y=[0.1, 0.2, 0.5, 1, 2, 5])
    main.set(ylabel="features per neuron n / m", title="Degree of superposition, with every reference")
    told = ", ".join(f"{slopes[model, m]['slope_@'].value:.2f} {model}" for model in MODELS)
    ratio.set(ylabel="n / m x p ln 1/p", title=f"Over 1/(p ln 1/p): slope {told} (m = {m})")
    shades = plots.category_colours(densities)
    for (model, _, p), own in shown.groupby(CELL, sort=False):
        counts, look = own.groupby("n_features")["recovered"].mean(), {"color": shades[p], "markersize": 4}
        look |= {"label": f"p = {p:g}"} if model == "tied" else {"linestyle": "--"}
        plots.curve(load, counts.index / m / elhage_ratio(p), counts / counts.max(), **look)
    load.set(xlabel="offered n / m x p ln 1/p", ylabel="recovered, share of capacity", ylim=(0.4, 1.06))
    load.set_title(f"The supremum over n (m = {m}; dashed: untied)")
    plots.ticks(load, x=[0.5, 1, 2], log="x")
    (found,) = reading.values()
    order = [name.removeprefix("learned_") for name in found if name.startswith("learned")]
    kinds = {f"{kind} rows": [found.get(f"{kind}_{name}", np.nan) for name in order] for kind in ("learned", "random")}
    plots.bars(read, [name.replace("_", "\n") for name in order], kinds)
    plots.level(read, 1, "linear (PCA)", right=True)
    read.set(ylabel="features per neuron", title="The same code, read by other decoders")
    for ax, columns in ((load, 2), (read, 1)):
        plots.legend(ax, ncols=columns, loc="lower right" if ax is load else "upper left", size=8.5)
    plots.legend(figure, size=9.5)
    return figure


if __name__ == "__main__":
    experiment(study)
