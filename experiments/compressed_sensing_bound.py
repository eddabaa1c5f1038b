"""How many sparse features do m neurons hold, against every fair reference?

Katta's note (2024) takes from compressed sensing, by way of Elhage et al. 2022, that m neurons hold n features only
while m = Omega(-n (1-S) ln(1-S)), that is n/m = c / (p ln 1/p) at density p = 1 - S, with c unknown. Measured here:
capacity per neuron kappa(p) = sup_n F_eff / m of tied and untied ReLU autoencoders (F_eff = sum of max(0, R^2)), and
F(theta) / m at R^2 > .25, .5, .9.

References, all as features per dimension: 1/(p ln 1/p) (a shape), 1/p (as many active as dimensions), the
non-negative l1 threshold (average case), the Bayes-optimal AMP threshold (the ceiling), one-step ReLU decoding of a
unit-norm tight frame, sampled at the same n, m, p (the like-for-like reference of a tied network, if it treats all
features alike), and 1 (linear, PCA).

Rules, over seeds: `elhage_slope_*`: the slope of ln kappa against ln[1/(p ln 1/p)] lies within 1 +- .1 (m = 16, all
densities). `one_step_explains_*`: kappa over the one-step reference is within 1 +- .1 in every cell. `near_bayes_amp`:
kappa is at least half the ceiling in every cell. `never_above_bayes_amp`: no cell exceeds it (a bug if one does).
`width_does_not_matter`: kappa at m = 32 and 16 agree within 10% at every density both have. `untied_holds_more`: by
more than 3% in every cell with p <= .01. `sup_reached`: from m = 16 up, the largest offer adds less than 3% to
capacity; `sup_reached_m8`: so it does at m = 8. `training_sufficient`: doubling the steps moves F_eff by less than 3%.
`learning_rates_bracketed`: each cell's best rate (best_rates, on seeds of their own) lies between worse ones. Loads,
steps and batch were chosen in pilots. Added after a first run: `one_step_slope_*`, kappa's slope against the one-step
reference lies within 1 +- .1 (m = 16). That run also showed that ignored features added noise to `recovered` (2% of a
feature each); all was run anew with the measure corrected.

Reading: one trained code (m = 32, p = .05) read by six decoders, on learned rows and on random unit rows, so that a gap
is laid at the door of the dictionary or of the decoding.

Two cores: --quick about a minute, default about 14.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from toysup import plots, report, stats
from toysup.decoders import affine_relu, bayes_amp, decoded_count, l1_homotopy, linear_probe, matching_pursuit
from toysup.features import SparseUniform
from toysup.measure import encoding_of, recovered, recovered_at
from toysup.models import TiedAutoencoder, UntiedAutoencoder
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, sweep
from toysup.tasks import Identity
from toysup.theory import bayes_amp_ratio, elhage_ratio, inverse_density, l1_ratio, one_step_r2, one_step_ratio

QUESTION = "How many sparse features does a neuron hold, and which bound do networks obey?"
MODELS = {"tied": TiedAutoencoder, "untied": UntiedAutoencoder}
DECODERS = (linear_probe, affine_relu, matching_pursuit, l1_homotopy, bayes_amp)
THETAS = (0.25, 0.5, 0.9)
ALL = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
CELLS = {8: ALL, 16: ALL, 32: ALL[:5], 64: ALL[:3], 128: ALL[:1]}  # what two cores train in a quarter of an hour
REFERENCES = {"elhage": elhage_ratio, "one_over_p": inverse_density, "l1": l1_ratio, "bayes_amp": bayes_amp_ratio}


def cells_of(run: report.Run) -> list[tuple[str, int, float]]:
    """(model, m, p), in the order of the tables."""
    chosen = run.pick(default=CELLS, quick={16: (0.2, 0.05, 0.02)}, smoke={8: (0.2, 0.1)})
    return [(model, m, p) for m, densities in chosen.items() for p in densities for model in MODELS]


def setting_of(run: report.Run, model: str, m: int, p: float, n: int, lr: float = 0.01) -> Setting:
    """One cell: sparser data are trained longer."""
    steps = run.pick(default=1500 if p >= 0.05 else 4000, quick=1000, smoke=20)
    optimizer = Adam(lr, beta2=0.99, schedule=Cosine())
    return Setting(SparseUniform(n, p), Identity(), Model(MODELS[model], width=m), optimizer, steps, 256)


def offered(m: int, p: float, load: float) -> int:
    """n at a load in units of 1/(p ln 1/p) features per neuron."""
    return max(m, round(load * m * float(elhage_ratio(p))))


def loads_of(run: report.Run, m: int, p: float) -> list[float]:
    """From under to far over capacity; the smallest networks get one more, where they can be trained."""
    return run.pick(default=[0.5, 1.0, 2.0], smoke=[1.0, 2.0]) + ([4.0] if m == 8 and p > ALL[-1] else [])


def name_of(model: str, m: int, p: float) -> str:
    return f"{model}_m{m}_p{p:g}"


def rates_of(run: report.Run, cells: list) -> pd.DataFrame:
    """Each cell's learning rate, at load 1."""
    grids = {
        name_of(*cell): Grid(setting_of(run, *cell, offered(*cell[1:], 1.0)), {"seed": SEARCH_SEEDS}) for cell in cells
    }
    return best_rates(grids, (0.0075, 0.015, 0.03), extend=run.pick(default=2, smoke=0), results=run.results,
                      device=run.device, workers=run.workers)  # fmt: skip


def main(run: report.Run) -> None:
    cells = cells_of(run)
    rates = rates_of(run, cells)
    seeds = range(run.pick(default=8, quick=4, smoke=2))
    grids, longer = {}, {}
    for cell in cells:
        model, m, p = cell
        setting = setting_of(run, *cell, m, float(rates.loc[name_of(*cell), "lr"]))
        sizes = [offered(m, p, load) for load in loads_of(run, m, p)]
        grids[f"bound_{name_of(*cell)}"] = Grid(setting, {"features.n_features": sizes, "seed": seeds})
        if (m, p) in run.pick(default=[(16, 0.05), (16, 0.01), (8, 0.002)], quick=[(16, 0.05)], smoke=[(8, 0.2)]):
            axes = {("features.n_features", "steps"): [(offered(m, p, 1.0), 2 * setting.steps)], "seed": seeds}
            longer[f"longer_{name_of(*cell)}"] = Grid(setting, axes)
    options = {"results": run.results, "device": run.device, "workers": run.workers}
    answers = sweep(grids | longer, [recovered, *map(recovered_at, THETAS)], **options)
    tables = {cell: answers[f"bound_{name_of(*cell)}"].table for cell in cells}

    held = {cell: stats.capacity(table, load="n_features") for cell, table in tables.items()}
    statistics, controls = {}, {"f_theta_per_neuron": {}, "cross_validated_offer": {}, "last_offer_adds": {}}
    controls |= {"over_one_step": {}, "doubled_steps": {}, "learning_rates": rates.to_dict("index")}
    below, near, alike, more, reached, reached_8 = [], [], {model: [] for model in MODELS}, [], [], []
    one_step = {}
    for (model, m, p), capacity in held.items():
        name, table = name_of(model, m, p), tables[model, m, p]
        kappa = capacity["recovered"] / m
        statistics[f"kappa_{name}"] = stats.mean(kappa)
        controls["cross_validated_offer"][name] = stats.mean(capacity["held_out"] / m)
        share = stats.mean(kappa / float(bayes_amp_ratio(p)))
        below.append(stats.decide(share, (-np.inf, 1)))
        near.append(stats.decide(share, (0.5, np.inf)))
        if (m, p) not in one_step:
            one_step[m, p] = max(
                n / m * one_step_r2(int(n), m, p, frame="tight").r2
                for n in {
                    offered(m, p, load) for load in run.pick(default=(0.15, 0.25, 0.35, 0.5, 0.7, 1.0), smoke=(0.5,))
                }
            )
        controls["over_one_step"][name] = over = stats.mean(kappa / one_step[m, p])
        alike[model].append(stats.decide(over, (1 / 1.1, 1.1)))
        by_offer = table.pivot(index="seed", columns="n_features", values="recovered")
        adds = stats.ratio(by_offer.iloc[:, -1], by_offer.iloc[:, -2], paired=True)
        controls["last_offer_adds"][name] = adds
        (reached_8 if m == 8 else reached).append(stats.decide(adds, (0, 1.03)))
        for theta in THETAS:
            counts = stats.capacity(table, load="n_features", recovered=f"recovered_at_{100 * theta:g}")
            controls["f_theta_per_neuron"][f"{name}_{theta:g}"] = {
                **stats.mean(counts["recovered"] / m).asdict(), "one_step_gaussian": float(one_step_ratio(p, theta)),
            }  # fmt: skip
        if model == "untied" and p <= 0.01:
            more.append(
                stats.decide(stats.ratio(kappa, held["tied", m, p]["recovered"] / m, paired=True), (1.03, np.inf))
            )
    slopes, widths = slopes_of(held, one_step), []
    statistics |= slopes
    for (model, m, p), capacity in held.items():
        if m == 32 and (model, 16, p) in held:
            grown = stats.ratio(capacity["recovered"] / 2, held[model, 16, p]["recovered"], paired=True)
            widths.append(stats.decide(grown, (1 / 1.1, 1.1)))
    for name, answer in answers.items():
        if name.startswith("longer_"):
            before = answers[name.replace("longer", "bound")].table
            before = before[before["n_features"] == answer.table["n_features"].iloc[0]].set_index("seed")["recovered"]
            moved = stats.ratio(answer.table.set_index("seed")["recovered"], before, paired=True)
            controls["doubled_steps"][name.removeprefix("longer_")] = moved
    reading = reading_of(run, answers)
    statistics |= {f"read_{row.dictionary}_{row.decoder}": row.per_neuron for row in reading.itertuples()}

    verdict = {
        f"elhage_slope_{model}": stats.decide(slopes[f"slope_{model}_m{wide(held)}"], (0.9, 1.1)) for model in MODELS
    }
    for model in MODELS:
        slope = slopes[f"slope_{model}_m{wide(held)}_one_step"]
        verdict[f"one_step_slope_{model}"] = stats.decide(slope, (0.9, 1.1))
    verdict |= {f"one_step_explains_{model}": stats.every(*found) for model, found in alike.items()}
    verdict["near_bayes_amp"], verdict["never_above_bayes_amp"] = stats.every(*near), stats.every(*below)
    for key, found in {"width_does_not_matter": widths, "untied_holds_more": more, "sup_reached": reached,
                       "sup_reached_m8": reached_8}.items():  # fmt: skip
        if found:
            verdict[key] = stats.every(*found)
    moved = [stats.decide(interval, (1 / 1.03, 1.03)) for interval in controls["doubled_steps"].values()]
    verdict["training_sufficient"] = stats.every(*moved)
    verdict["learning_rates_bracketed"] = "supported" if rates["bracketed"].all() else "undecided"
    engine = ", ".join(sorted({engine for answer in answers.values() for engine in answer.table["engine"]}))
    report.write(run, draw(tables, held, one_step, reading, slopes), statistics=statistics, verdict=verdict,
                 controls=controls, engine=engine, instances=sum(len(answer.table) for answer in answers.values()),
                 steps=max(int(g.setting.steps) for g in grids.values()),
                 seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def wide(held: dict) -> int:
    """The width with the most densities, the larger of two."""
    count = pd.Series([m for _, m, _ in held]).value_counts()
    return int(max(count[count == count.max()].index))


def slopes_of(held: dict, one_step: dict) -> dict[str, stats.Interval]:
    """Slope of ln kappa in ln of each reference, and the mean constant kappa / reference, per model and width."""
    found = {}
    for model in MODELS:
        for m in sorted({m for _, m, _ in held}):
            densities = [p for one, width, p in held if (one, width) == (model, m)]
            if len(densities) < 2:
                continue
            logs = np.log(np.stack([held[model, m, p]["recovered"] / m for p in densities]))  # density seed
            references = {name: reference(np.array(densities)) for name, reference in REFERENCES.items()}
            references["one_step"] = np.array([one_step[m, p] for p in densities])
            for name, reference in references.items():
                scale = np.log(reference)
                slope = stats.mean(np.polyfit(scale, logs, 1)[0])
                tag = f"{model}_m{m}" if name == "elhage" else f"{model}_m{m}_{name}"
                found[f"slope_{tag}"] = slope
                constant = stats.mean((logs - scale[:, None]).mean(0))
                found[f"constant_{tag}"] = stats.Interval(*np.exp([constant.value, constant.low, constant.high]))
    return found


def reading_of(run: report.Run, answers: dict) -> pd.DataFrame:
    """Recovered per neuron by decoder and dictionary, from one cell's tied networks at load 1."""
    m, p = run.pick(default=(32, 0.05), quick=(16, 0.05), smoke=(8, 0.2))
    answer, rows = answers[f"bound_tied_m{m}_p{p:g}"], []
    parts: dict[tuple[str, str], list[float]] = {}
    for trained in answer:
        if trained.setting.features.n_features != offered(m, p, 1.0):
            continue
        parts.setdefault(("learned", "own_decoder"), []).extend((recovered(trained).value / m).tolist())
        code = encoding_of(trained)
        for dictionary, encoding in (("learned", code), ("random", code.random())):
            for decoder in DECODERS:
                if run.mode == "smoke" and decoder is not linear_probe:
                    continue
                count = decoded_count(encoding, decoder, samples=run.pick(default=512, smoke=64)).value
                parts.setdefault((dictionary, decoder.__name__), []).extend((count / m).tolist())
    for (dictionary, decoder), values in parts.items():
        rows.append({"dictionary": dictionary, "decoder": decoder, "per_neuron": stats.mean(values)})
    return pd.DataFrame(rows)


def draw(tables: dict, held: dict, one_step: dict, reading: pd.DataFrame, slopes: dict) -> plots.Figure:
    """Features per neuron against sparsity with every reference; ratios; saturation; who reads how much."""
    figure, axes = plots.figure(2, 2, width=13, height=4.6)
    colours = plots.category_colours(MODELS)
    (main_ax, ratio_ax), (load_ax, read_ax) = axes
    densities = np.array(sorted({p for *_, p in held}))
    fine = np.geomspace(densities.min(), densities.max(), 16)
    lines = {
        "1/p": (inverse_density, ":"),
        "Bayes-AMP (ceiling)": (bayes_amp_ratio, "-"),
        "1/(p ln 1/p)": (elhage_ratio, "--"),
        "l1, non-negative": (l1_ratio, "-."),
    }
    for label, (reference, style) in lines.items():
        main_ax.plot(
            1 / fine, reference(fine), linestyle=style, color="black" if style == "-" else plots.GREY, label=label
        )
    widths = sorted({m for _, m, _ in held})
    markers = dict(zip(widths, "vosD^", strict=False))
    shown = wide(held)
    own = sorted(p for m, p in one_step if m == shown)
    main_ax.plot(1 / np.array(own), [one_step[shown, p] for p in own], color=plots.GREY, linewidth=2.5, alpha=0.5,
                 label=f"one-step decoding, m = {shown}")  # fmt: skip
    main_ax.axhline(1, color=plots.GREY, linestyle=(0, (1, 4)), label="linear (PCA)")
    for model, colour in colours.items():
        for m in widths:
            here = [p for one, width, p in held if (one, width) == (model, m)]
            found = [stats.mean(held[model, m, p]["recovered"] / m) for p in here]
            x, y = 1 / np.array(here), np.array([interval.value for interval in found])
            error = [[max(i.value - i.low, 0) for i in found], [max(i.high - i.value, 0) for i in found]]
            if all(np.isfinite(error).ravel()):
                main_ax.errorbar(x, y, yerr=error, color=colour, marker=markers[m], markersize=5, linewidth=1,
                                 label=f"{model}, m = {m}")  # fmt: skip
            ratio_ax.plot(x, y / elhage_ratio(1 / x), color=colour, marker=markers[m], markersize=5, linewidth=1)
    main_ax.set(xscale="log", yscale="log", xlabel="1 / (1 - S) = 1 / density", ylabel="features per neuron, n / m",
                title="Degree of superposition, with every reference")  # fmt: skip
    handles, labels = main_ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=9.5)
    for label, (reference, style) in lines.items():
        if label != "1/(p ln 1/p)":
            ratio_ax.plot(1 / fine, reference(fine) / elhage_ratio(fine), linestyle=style,
                          color="black" if style == "-" else plots.GREY)  # fmt: skip
    ratio_ax.plot(1 / np.array(own), [one_step[shown, p] / elhage_ratio(p) for p in own], color=plots.GREY,
                  linewidth=2.5, alpha=0.5)  # fmt: skip
    ratio_ax.axhline(1, color=plots.GREY, linestyle="--")
    text = ", ".join(f"{slopes[f'slope_{model}_m{shown}'].value:.2f} {model}" for model in MODELS)
    ratio_ax.set(xscale="log", yscale="log", xlabel="1 / density", ylabel="features per neuron x p ln 1/p",
                 title=f"Over 1/(p ln 1/p): slope {text} (m = {shown})")  # fmt: skip
    shades = dict(zip(densities, plots.category_colours(list(map(str, densities))).values(), strict=True))
    for (model, m, p), table in tables.items():
        if m == shown:
            curve = table.groupby("n_features")["recovered"].mean() / m
            style = {"linestyle": "-", "label": f"p = {p:g}"} if model == "tied" else {"linestyle": "--"}
            offers = curve.index / m / elhage_ratio(p)
            load_ax.plot(offers, curve / curve.max(), marker="o", markersize=4, color=shades[p], **style)
    load_ax.set(xscale="log", xlabel="offered n/m x p ln 1/p", ylabel="recovered, share of capacity",
                title=f"The supremum over n (m = {shown}; dashed: untied)", ylim=(0.4, 1.06))  # fmt: skip
    load_ax.set_xticks([0.5, 1, 2], ["0.5", "1", "2"])
    load_ax.minorticks_off()
    load_ax.legend(fontsize=8.5, ncols=2, loc="lower right")
    order = list(dict.fromkeys(reading["decoder"]))
    tints = plots.category_colours(["learned", "random"])
    for k, (dictionary, rows) in enumerate(reading.groupby("dictionary", sort=True)):
        places = np.array([order.index(decoder) for decoder in rows["decoder"]]) + 0.4 * k
        ends = np.array([[i.value - i.low, i.value, i.high - i.value] for i in rows["per_neuron"]])
        reach = np.where(np.isfinite(ends[:, [0, 2]]), ends[:, [0, 2]], 0).T
        read_ax.bar(
            places, ends[:, 1], 0.38, yerr=reach, capsize=2, color=tints[dictionary], label=f"{dictionary} rows"
        )
    read_ax.set_xticks(np.arange(len(order)) + 0.2, [name.replace("_", "\n") for name in order], fontsize=9)
    read_ax.axhline(1, color=plots.GREY, linestyle=":", label="linear (PCA)")
    read_ax.set(ylabel="features per neuron", title="The same code, read by other decoders")
    read_ax.legend(fontsize=9)
    for ax in (main_ax, ratio_ax):
        ax.set_xticks(1 / densities, [f"{1 / p:g}" for p in densities])
        ax.minorticks_off()
    ratio_ax.set_yticks([0.1, 0.2, 0.5, 1, 2, 5], ["0.1", "0.2", "0.5", "1", "2", "5"])
    figure.suptitle(headline(held, one_step))
    return figure


def headline(held: dict, one_step: dict) -> str:
    """What a reader should take away, from the numbers."""
    kappa = {cell: capacity["recovered"].mean() / cell[1] for cell, capacity in held.items()}
    shares = [found / float(bayes_amp_ratio(p)) for (*_, p), found in kappa.items()]
    over = {model: [found / one_step[m, p] for (one, m, p), found in kappa.items() if one == model] for model in MODELS}
    said = ", ".join(f"{model} {min(x):.1f}-{max(x):.1f}" for model, x in over.items())
    return (
        f"One-step decoding sets the scale: {said} times it; {min(shares):.0%}-{max(shares):.0%} of the Bayes ceiling"
    )


if __name__ == "__main__":
    report.experiment(main)
