"""docs/ablation.md: whether triplets help adversarial training, and what decides it, by the JSON of
benchmarks/ablation.py.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from render_latency import line
from seeds import NORMAL, beyond, interval

from tla_ops.experiments.tla.names import DATASETS

INTRO = """# Does the triplet loss help? One change at a time

Rendered by `benchmarks/render.py` from `benchmarks/results/*/ablation/`, one file a run, curves
included; `TLA_DATA=folder make ablation` (with `DATASET=cifar10` for the other) makes what is
missing. Each run differs from the recipe that begins its name in what the columns beside it say,
beside what all have changed.

- Statistics: whose images move batch normalisation's running statistics, by which a model is
  attacked and evaluated: those of all streams, or of the adversarial one alone.
- Accuracies are of development images: training images that are neither learned from nor choose
  the checkpoint. Test images are not looked at, so that what is chosen here can be tested once. An
  earlier table of test images (docs/reproduction.md, 600 steps, statistics of all streams) is why
  these runs were made.
- Minutes are of a machine that others used, too: they are no speeds.
- PGD: of the checkpoint that held-out images chose; last: of the last step's. Where both are
  alike, that was the last one, and the choice of checkpoint decided nothing.
- ±: half of a 95% interval; by Student's t over the seeds or, where there is one, by the normal
  distribution over the images, which leaves out what another seed would change.
- To its baseline: the mean difference, in points, to the run in brackets with the same seeds:
  adversarial training with the same change where there is one. To all: to the run that differs in
  the statistics alone.
- Active: share of anchors with an active hinge; d+ and d−: mean angular distances to the positive
  and to the mined negative, all over the last steps.
"""
COLUMNS = (
    *("run", "statistics", "changed", "seeds", "clean", "PGD", "to its baseline", "to all", "last"),
    *("active", "d+", "d−", "minutes a run"),
)
BASELINE = "at"
CURVES = ("at", "tla", "tla-statistics")
COLOURS = ("#4477AA", "#EE7733", "#228833")


def ablation_page(documents: Sequence[dict]) -> str:
    """The whole page, a table for each machine and each base."""
    groups = _groups(documents)
    return "\n".join([INTRO, *("\n".join(_table(of, name)) + "\n" for name, of in groups.items())])


def _groups(documents: Sequence[dict]) -> dict[str, list[dict]]:
    """Runs on one data set and machine that have one base, by the stem of their figure."""
    groups: dict[Any, list[dict]] = defaultdict(list)
    for document in documents:
        facts = [document[key] for key in ("machine", "torch", "threads", "images", "attack")]
        place = f"{document['recipe']['dataset']}-{document['machine']}"
        groups[place, str((facts, document["base"]))].append(document)
    seen: Counter[str] = Counter()
    named = {}
    for (place, _), group in groups.items():
        seen[place] += 1
        nth = f"-{seen[place]}" if seen[place] > 1 else ""
        named[f"ablation-{place}{nth}"] = group
    return named


def _by_variant(documents: Sequence[dict]) -> dict[str, dict[int, dict]]:
    found: dict[str, dict[int, dict]] = defaultdict(dict)
    for document in sorted(documents, key=lambda document: document["seed"]):
        found[document["variant"]][document["seed"]] = document
    plain_first = sorted(found, key=lambda name: (name.count("-") > 0, name))
    return {name: found[name] for name in plain_first}


def _table(documents: Sequence[dict], name: str) -> Iterator[str]:
    first, variants = documents[0], _by_variant(documents)
    commits = sorted({document["commit"] for document in documents})
    attack = first["attack"]
    yield f"## {DATASETS[first['recipe']['dataset']]}, {first['device']}\n"
    yield (
        f"torch {first['torch']}, {first['threads']} thread, commits {', '.join(commits)}. "
        f"{first['images']} development images; PGD-{attack['steps']}, ε = {attack['epsilon']}, "
        f"steps of {attack['step']}. {_learned(documents)}A reduced experiment, not the paper's: "
        "where a row says nothing else, runs have "
        f"{', '.join(first['base'])}.\n"
    )
    yield line(COLUMNS)
    yield line(["---"] * len(COLUMNS))
    for variant, runs in variants.items():
        base, same = baseline(variant, variants), variant.replace("-statistics", "")
        cells = _cells(runs, variants.get(base, {}), variants.get(same, {}))
        yield line((variant, *_change(next(iter(runs.values()))), *cells))
    yield f"\n{answer(variants)}"
    yield f"\n![Curves]({name}.svg)\n"


def _learned(documents: Sequence[dict]) -> str:
    """Of how many images runs learn that do not choose their number, by their epochs."""
    counts = set()
    for document in documents:
        last = document["curves"][-1]
        if last.get("epoch") and "train_images" not in str(document["changed"]):
            counts.add(round(last["step"] * document["recipe"]["batch"] / last["epoch"], -2))
    return f"Learned from {max(counts):,.0f} images. " if counts else ""


def _change(document: dict) -> tuple[str, str]:
    """Whose images move batch normalisation's running statistics, and what else is changed."""
    recipe = document["recipe"]
    changed = [text for text in document["changed"] if not text.startswith("statistics=")]
    statistics = "–" if recipe["method"] == "at" else recipe.get("statistics", "all")
    return statistics, ", ".join(changed) or "–"


def baseline(name: str, variants: dict[str, Any]) -> str:
    """What a run is compared with: adversarial training under the same change, if there is such a
    run, else as it is in the recipe.
    """
    changes = [part for part in name.split("-")[1:] if part not in ("rn", "sa", "statistics")]
    same = "-".join([BASELINE, *changes])
    return same if same in variants and name != same else BASELINE


def answer(variants: dict[str, dict[int, dict]]) -> str:
    """Which runs with triplets differ from their baselines by more than the seeds' noise."""
    signs = {}
    for name, runs in variants.items():
        apart = _differences(runs, variants.get(baseline(name, variants), {}))
        weights = {document["recipe"].get("weight") for document in runs.values()}
        if name.startswith("tla") and weights != {0.0} and len(apart) > 1:
            signs[name] = beyond(apart)
    above, below = ([name for name in signs if signs[name] == sign] for sign in (1, -1))
    single = [name for name, runs in variants.items() if len(runs) == 1]
    text = (
        f"Of the runs with triplets that have two seeds or more ({len(signs)}), above their "
        f"baselines beyond the interval: {', '.join(above) or 'none'}; below: "
        f"{', '.join(below) or 'none'}. Of so many intervals of 95%, one in twenty lies beyond by "
        "chance."
    )
    return text + (f" Of one seed alone: {', '.join(single)}." if single else "")


def _differences(runs: dict[int, dict], others: dict[int, dict]) -> list[float]:
    """In points, of the seeds that both have."""
    both = [seed for seed in runs if seed in others]
    return [100 * (runs[seed]["best"]["pgd"] - others[seed]["best"]["pgd"]) for seed in both]


def _cells(runs: dict[int, dict], base: dict[int, dict], same: dict[int, dict]) -> Iterator[str]:
    documents = list(runs.values())
    yield ", ".join(map(str, runs))
    yield _share([d["best"]["clean"] for d in documents], documents)
    yield _share([d["best"]["pgd"] for d in documents], documents)
    yield _apart(runs, base)
    yield _apart(runs, same)
    yield _share([d["last"]["pgd"] for d in documents], documents)
    last = [_last(document["curves"]) for document in documents]
    for key, pattern in (
        ("active", "{:.0%}"), ("positive_distance", "{:.3f}"), ("negative_distance", "{:.3f}"),
    ):  # fmt: skip
        values = [row[key] for row in last if key in row]
        yield pattern.format(mean(values)) if values else "–"
    yield f"{mean(d['seconds'] for d in documents) / 60:.1f}"


def _apart(runs: dict[int, dict], others: dict[int, dict]) -> str:
    """The mean difference of the seeds that both have."""
    apart = _differences(runs, others)
    if not apart or runs == others:
        return "–"
    half = interval(apart)
    about = "" if half is None else f" ± {half:.1f}"
    variant = next(iter(others.values()))["variant"]
    return f"{mean(apart):+.1f}{about} ({variant}, n = {len(apart)})"


def _share(values: Sequence[float], documents: Sequence[dict]) -> str:
    half = interval(values)
    if half is None:
        share = values[0]
        half = NORMAL * (share * (1 - share) / documents[0]["images"]) ** 0.5
    return f"{mean(values):.1%} ± {100 * half:.1f}"


def _last(curves: Sequence[dict]) -> dict[str, float]:
    return next((row for row in reversed(curves) if "active" in row), {})


def ablation_figures(documents: Sequence[dict], folder: Path) -> Iterator[Path]:
    """Curves of the means over seeds, of each group; the same bytes for the same results."""
    for name, group in _groups(documents).items():
        path = folder / f"{name}.svg"
        _figure(_by_variant(group), path)
        yield path


def _figure(variants: dict[str, dict[int, dict]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    look = {"svg.fonttype": "none", "svg.hashsalt": "tla_ops", "font.size": 11}
    with mpl.rc_context(look):
        figure, panels = plt.subplots(
            1, 3, figsize=(12, 4), facecolor="white", layout="constrained"
        )
        for name, colour in zip(CURVES, COLOURS, strict=True):
            curves = [document["curves"] for document in variants.get(name, {}).values()]
            for axes, key, style, said in (
                (panels[0], "val_adversarial", "-", ""),
                (panels[1], "active", "-", ""),
                (panels[2], "positive_distance", "-", ", to the positive"),
                (panels[2], "negative_distance", "--", ", to the negative"),
            ):
                _curve(axes, curves, key, style, colour, f"{name}{said}")
        panels[0].set(xlabel="step", ylabel="accuracy under PGD, held-out images", ylim=(0, 1))
        panels[1].set(xlabel="step", ylabel="share of active triplets", ylim=(0, 1))
        panels[2].set(xlabel="step", ylabel="mean angular distance", ylim=(0, None))
        for axes in panels:
            axes.grid(color="#d9d9d9", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(frameon=False, fontsize=9)
        figure.savefig(path, format="svg", metadata={"Date": None})
        plt.close(figure)


def _curve(
    axes: Any, curves: Sequence[Sequence[dict]], key: str, style: str, colour: str, label: str
) -> None:
    """The mean over seeds at each step, and every seed's own curve, pale."""
    points: dict[float, list[float]] = defaultdict(list)
    for rows in curves:
        own = [(row["step"], row[key]) for row in rows if key in row]
        for step, value in own:
            points[step].append(value)
        if own:
            axes.plot(*zip(*own, strict=True), color=colour, linestyle=style, alpha=0.25)
    if points:
        steps = sorted(points)
        means = [mean(points[step]) for step in steps]
        axes.plot(steps, means, color=colour, linestyle=style, linewidth=2, label=label)
