"""What feature_universality.py compares: networks paired by loss, and how alike two ensembles are by each measure."""

import math
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm

from toysup import similarity, stats
from toysup.measure import directions
from toysup.measure.universality import shared_activations, unit_responses
from toysup.similarity import above_chance, explained, feature_correlation, monomials

TASKS = {"representation": ["other"], "memory": ["other", "facts"]}  # what else the shorter training is done with
ENOUGH, DEGREE = 20, 4
# name -> (similarity, what it compares, the axis that is shuffled for the floor; None: the floor is 0 by construction)
MEASURES = {"scores": (feature_correlation, "scores", None), "CKA": (similarity.linear_cka, "activations", None),
            "SVCCA": (similarity.svcca, "activations", 1), "units": (similarity.matched_cosine, "units", -1),
            "gram": (similarity.gram_similarity, "code", None)}  # fmt: skip
SHOWN = {"full": ("scores", "CKA"), "half": ("scores", "CKA"), "alike": ("scores",), "facts": ("scores",)}


def zipf(n: int) -> np.ndarray:
    return 1 / np.arange(1, n + 1)


def importances(n: int, seed: int = 0) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).permutation(norm.ppf((np.arange(n) + 0.5) / n)))


def laws(task: str, n: int) -> dict[str, np.ndarray]:
    """Controls, (feature, control): curves in the logarithms of what features differ in, in each and in all ("law")."""
    law = {"frequency": np.log(zipf(n))} | ({"importance": np.log(importances(n))} if task == "representation" else {})
    return {name: monomials([own], DEGREE) for name, own in law.items()} | {"law": monomials([*law.values()], DEGREE)}


def own(rows: pd.DataFrame, model: str, world: str = "plain", variant: str = "") -> pd.DataFrame:
    """The networks of one model that did not diverge."""
    same = (rows[["model", "world", "variant"]] == [model, world, variant]).all(axis=1)
    return rows[same & np.isfinite(rows["loss"])]


def models(rows: pd.DataFrame) -> list[str]:
    """A and B, the one with the higher loss first."""
    return sorted("AB", key=lambda model: -own(rows, model)["loss"].mean())


def paired(rows: pd.DataFrame, task: str) -> pd.DataFrame:
    """Rows of `long` and `short` networks and ln of their losses' ratio: each once, losses as near as can be."""
    kind = np.float64 if task == "memory" else np.float32  # as measured: rounding decides among equal matchings
    long, short = own(rows, models(rows)[0]), own(rows, "short")
    a, b = (np.log(one["loss"].to_numpy(kind)) for one in (long, short))
    i, j = stats.nearest_pairs(a, b, within=0.01, at_least=ENOUGH, of=short["seed"])
    return pd.DataFrame({"long": long.index[i], "short": short.index[j], "gap": b[j] - a[i]})


def scores_of(features: pd.DataFrame, rows: pd.DataFrame) -> torch.Tensor:
    """(network, feature)."""
    some = features[features["source"].isin(rows["source"])]
    wide = some.pivot(index=["source", "row"], columns="feature", values="scores")
    return torch.tensor(wide.loc[list(zip(rows["source"], rows["row"], strict=True))].to_numpy(np.float64))


def agreements(rows: pd.DataFrame, features: pd.DataFrame, networks: Any, pairs: pd.DataFrame, task: str
               ) -> dict[tuple[str, str], stats.Agreement]:  # fmt: skip
    """(what is compared, measure) -> how alike two ensembles are."""
    x, order = networks(own(rows, "A").iloc[[0]]).batch(0, 2048)[0][0], models(rows)  # the same inputs for all
    read = {"of": "neurons", "layer": None} if task == "memory" else {}

    def traits(rows: pd.DataFrame, snapshot: int | None = None) -> dict[str, torch.Tensor]:
        """What the measures compare, of networks trained for whatever lengths."""
        parts, found = [part for _, part in rows.groupby("steps")], []
        for part in parts:
            trained = networks(part) if snapshot is None else networks(part).at(snapshot)
            found.append({"activations": shared_activations(trained, inputs=x, **read),
                          "units": unit_responses(trained)})  # fmt: skip
            if task == "representation":
                found[-1]["code"] = directions(trained)
        place = np.argsort(np.concatenate([rows.index.get_indexer(part.index) for part in parts]))
        whole = {name: torch.cat([one[name] for one in found])[place] for name in found[0]}
        return whole if snapshot == 0 else whole | {"scores": scores_of(features, rows)}

    def compared(name: str, a: dict, b: dict, floors: tuple = (0.0,) * 3) -> stats.Agreement:
        measure, what, axis = MEASURES[name]
        return above_chance(measure, a[what], b[what], axis=axis, repeats=2, floors=floors)

    a, b = traits(rows.loc[pairs["long"]]), traits(rows.loc[pairs["short"]])
    sets = {"equal": (a, b)} | {world: (a, traits(own(rows, "short", world))) for world in TASKS[task]}
    for name, which in (("full", {}), ("half", {"variant": "half"}), ("alike", {"world": "alike"})):
        sets[name] = tuple(traits(own(rows, model, **which)) for model in order)
    sets["untrained"] = tuple(traits(own(rows, model), 0) for model in order)
    found = {(kind, name): compared(name, x, y) for kind, (x, y) in sets.items() for name, (_, what, _) in
             MEASURES.items() if what in x and name in SHOWN.get(kind, MEASURES)}  # fmt: skip
    found |= {("above_untrained", name): compared(name, a, b, tuple(part.value for part in floor[1:]))
              for (kind, name), floor in found.items() if kind == "untrained"}  # fmt: skip
    known = laws(task, a["scores"].shape[1])
    return found | {(f"given_{name}", "scores"): above_chance(partial(feature_correlation, given=known[name]),
                                                              a["scores"], b["scores"])
                    for name in ("frequency", "law")}  # fmt: skip


def near_zero(found: stats.Agreement) -> stats.Verdict:
    """Across and within."""
    return stats.every(*(stats.decide(part, 0.05) for part in found[1:]))


def numbers(rows: pd.DataFrame, features: pd.DataFrame, agreements: dict, pairs: pd.DataFrame, task: str
            ) -> dict[str, stats.Interval]:  # fmt: skip
    """What is claimed, by name."""
    out = {}
    for (kind, name), one in agreements.items():
        if kind == "equal":
            out |= {f"{name}_U": one.u} | {f"{name}_{part}": getattr(one, part) for part in one._fields[1:]}
        elif kind in ("half", "full"):
            at_equal = agreements["equal", name].u.value
            moved = one.u.transformed(lambda u, before=at_equal: u - before)
            out[f"{name}_U_{kind}_minus_equal"] = moved if math.isfinite(at_equal) else stats.UNDEFINED
        elif kind.startswith("given_"):
            out |= {f"{name}_{kind}_across": one.across, f"{name}_{kind}_U": one.u}
        elif kind not in ("alike", "untrained"):
            out[f"{name}_U_{'other_facts' if kind == 'facts' else kind}"] = one.u
    both = torch.cat([scores_of(features, rows.loc[pairs[side]]) for side in ("long", "short")])
    for name, known in laws(task, both.shape[1]).items():
        out[f"explained_by_{name}"] = stats.mean(explained(both, known))
    return out | {"ln_loss_gap": stats.mean(pairs["gap"])}


def training(rows: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, Any]:
    ends = {f"loss_of_{model}": own(rows, model)["loss"].mean() for model in "AB"}
    return {"cut_short": models(rows)[1], "steps": own(rows, "short", "other")["steps"].iloc[0], "pairs": len(pairs),
            "widest_gap": pairs["gap"].abs().max(), "loss": rows.loc[pairs["long"], "loss"].mean(), **ends}  # fmt: skip
