"""docs/training.md: how the training layer works, and what results files say of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from render_latency import line

from tla_ops.training.recipe import load_recipe

INTRO = """# Training

Rendered by `benchmarks/render.py` from `benchmarks/results/`; nothing below is typed by hand.
`make bench-train`, `make short-runs` (with `TLA_DATA=folder`) and `benchmarks/bench_attacks.py`
measure again.

A run is a recipe (`tla_ops/training/recipes/*.yaml`, `tla-ops train --list`), a data set and an
output folder:

- **Recipes** are flat YAML, the papers' values in them and the authors' code's in comments where it
  differs. `--set key=value` changes one; budgets are exact fractions (`8/255`).
- **Randomness** of a step comes from the seed, the step's number and the process's rank alone. A
  run that was killed goes on from `last.pt` with `--resume` to the same numbers, on a CPU to the
  same bits; Ctrl-C and SIGTERM leave a checkpoint of the step that was under way.
- **Checkpoints** are written beside their place and renamed. `best.pt` is chosen by adversarial
  accuracy (of an undefended model, clean accuracy) on training images that are held out
  (`val_images`, `val_steps`), never on test images.
- **Collapse is visible**: `metrics.csv` and TensorBoard have the share of active triplets and the
  mean distances to positives and negatives.
- **Two flows of TLA**: a pool that is forwarded without gradient, whose picks are forwarded again
  (the paper's), or `--set bank=N --set candidates=0`, which mines among N earlier clean features
  and forwards nothing more than the step itself.
- **Batch normalisation**: every stream (adversarial, positives, negatives) is normalised by its own
  batch. Whose images move the running statistics, by which a model is attacked and evaluated, is
  `statistics`: `all` streams', as plain forward calls do, or the `adversarial` one's alone, as
  MNIST's recipes have it, for [what that decides](ablation.md).
- **The attack takes the time**: 7 to 40 passes a step. Training attacks a twin of the model
  (`tla_ops/training/fast.py`): eval mode, batch normalisations folded, channels last, weights
  without gradients, in float32 or, with `fast_attack: bfloat16`, in half the width, for processors
  with instructions for it (for others float32 is the faster); on CUDA the attack is captured as a
  graph, which is compared with the eager attack before it is used. No GPU has run that graph yet.
- **Processes**: `torchrun --nproc-per-node N -m tla_ops train …`; `batch` is shared among them.
"""
TRAIN_COLUMNS = (
    "recipe", "implementation", "images/s", "ms a step", "20–80%", "to `plain`",
    "to `backward_loop`", "loss under its attack",
)  # fmt: skip
ATTACK_COLUMNS = (
    "attack", "accuracy, ours", "accuracy, ART", "images apart", "equal pixels", "seconds, ours",
    "seconds, ART", "agrees",
)  # fmt: skip
CARLINI_COLUMNS = (
    "arguments", "implementation", "images", "images/s", "to ART", "fooled", "mean l∞",
    "median l∞",
)  # fmt: skip
COLOURS = {"at": "#4477AA", "tla": "#EE7733"}


def training_page(
    throughput: Sequence[dict],
    attacks: Sequence[dict],
    carlini: Sequence[dict],
    runs: Sequence[dict],
) -> str:
    """The whole page; `runs` are those of benchmarks/short_runs.py."""
    parts = [INTRO]
    parts += ["\n".join(throughput_table(document)) + "\n" for document in throughput]
    parts += ["\n".join(attack_table(document)) + "\n" for document in attacks]
    parts += ["\n".join(carlini_table(document)) + "\n" for document in carlini]
    for document in runs:
        parts.append("\n".join(run_tables(document)) + "\n")
    return "\n".join(parts)


def throughput_table(document: dict) -> list[str]:
    where = f"{document['machine']}, {document['threads']} threads, torch {document['torch']}"
    lines = [
        "## Images a second\n",
        f"{where}, commit {document['commit']}, {document['date'][:10]}. Whole steps of the "
        "recipe's model, batch, attack and method on random images; implementations take turns.\n",
        *(f"- `{name}`: {text}" for name, text in document["tells"].items()),
        "",
    ]
    if document["changed"]:
        lines.append(f"Changed in the recipes: {', '.join(document['changed'])}.\n")
    lines += [line(TRAIN_COLUMNS), line(["---"] * len(TRAIN_COLUMNS))]
    for row in document["rows"]:
        lines.append(line((
            row["recipe"], row["impl"], f"{row['images_per_second']:.4g}",
            f"{row['median_ms']:.4g}", f"{row['p20_ms']:.4g}–{row['p80_ms']:.4g}",
            f"{row['to_plain']:.2f} ×", f"{row['to_backward_loop']:.2f} ×",
            f"{row['attacked_loss']:.3f} (clean {row['clean_loss']:.3f})",
        )))  # fmt: skip
    return lines


def attack_table(document: dict) -> list[str]:
    lines = [
        "## Attacks beside adversarial-robustness-toolbox\n",
        f"{document['device']}, torch {document['torch']}, commit {document['commit']}, "
        f"{document['date'][:10]}. A small network on the digits, {document['images']} test "
        f"images, clean accuracy {document['clean']:.1%}; l∞ ε = {document['linf']['epsilon']}, "
        f"step {document['linf']['step']}; l2 ε = {document['l2']['epsilon']}, step "
        f"{document['l2']['step']}. Apart: images that one of the two alone misleads the model "
        "with. Equal pixels: of attacks without a random start.\n",
        line(ATTACK_COLUMNS),
        line(["---"] * len(ATTACK_COLUMNS)),
    ]
    for row in document["rows"]:
        equal = row.get("equal_pixels")
        lines.append(line((
            row["attack"], f"{row['accuracy']:.1%}", f"{row['accuracy_art']:.1%}",
            str(row["apart"]), "–" if equal is None else f"{equal:.2%}",
            f"{row['seconds']:.2f}", f"{row['seconds_art']:.2f}", "yes" if row["agrees"] else "no",
        )))  # fmt: skip
    return lines


def carlini_table(document: dict) -> list[str]:
    lines = [
        "## Carlini and Wagner's l∞ attack beside adversarial-robustness-toolbox\n",
        f"{document['device']}, torch {document['torch']}, commit {document['commit']}, "
        f"{document['date'][:10]}. A small undefended network on test images of the digits that it "
        "gets right, equal arguments, median times of turns. Ours works on all images of a call at "
        "once, ART one by one on the first few, as does ours with `batch_size=1`. What is fooled "
        "is of these few, distances are of those of them that are. In ART the constant does not "
        "weigh the gradient.\n",
        *(f"- {row['setting']}: {_said(row['arguments'])}; runs: {row['repeats']}"
          for row in document["rows"]),
        "",
        line(CARLINI_COLUMNS),
        line(["---"] * len(CARLINI_COLUMNS)),
    ]  # fmt: skip
    for row in document["rows"]:
        for name, said in (("", "tla_ops"), ("_alone", "tla_ops, one by one"), ("_art", "ART")):
            speed = row[f"images_per_second{name}"]
            sizes = (row[f"{key}_linf{name}"] for key in ("mean", "median"))
            lines.append(line((
                row["setting"], said, str(row[f"images{name}"]), f"{speed:.3g}",
                f"{speed / row['images_per_second_art']:.3g} ×", f"{row[f'success{name}']:.0%}",
                *("–" if size is None else f"{size:.3f}" for size in sizes),
            )))  # fmt: skip
    return lines


def _said(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in arguments.items())


def run_tables(document: dict) -> list[str]:
    done = {name: run for name, run in document["runs"].items() if "error" not in run}
    lines = [
        "## Short runs on real data\n",
        f"{document['device']}, torch {document['torch']}, commit {document['commit']}, "
        f"{document['date'][:10]}, one seed. Not the papers' experiments: networks, training "
        "attacks and lengths are reduced to what this processor does in minutes. Accuracies are "
        "of the checkpoint that held-out training images chose.\n",
    ]
    for data in dict.fromkeys(run["recipe"]["dataset"] for run in done.values()):
        here = {n: run for n, run in done.items() if run["recipe"]["dataset"] == data}
        lines += _data_set(data, here, document)
    return lines


def _is_older(name: str, recipe: dict[str, Any]) -> bool:
    """Whether today's recipe of that name has statistics of its own, which this one had not."""
    today = load_recipe(name).as_dict().get("statistics")
    return today is not None and today != recipe.get("statistics")


def _data_set(data: str, runs: dict[str, Any], document: dict) -> Iterator[str]:
    first = next(iter(runs.values()))
    recipe = first["recipe"]
    smoke = " (a smoke run: steps are taken, nothing is learned)" if first["smoke"] else ""
    yield f"### {data}{smoke}\n"
    yield "; ".join(first["notes"]) + ".\n"
    yield f"Changed in the recipes: {', '.join(first['changed'])}.\n"
    older = [name for name, run in runs.items() if _is_older(name, run["recipe"])]
    if older:
        yield f"Of an older recipe, without `statistics: adversarial`: {', '.join(older)}.\n"
    names = list(first["attacks"])

    def head(name: str) -> str:
        steps = first["attacks"][name]["steps"]
        return name if steps is None else f"{name}-{steps}"

    columns = ("run", "steps", "seconds", *map(head, names))
    yield line(columns)
    yield line(["---"] * len(columns))
    for name, run in runs.items():
        cells = [
            f"{run['attacks'][a]['accuracy']:.1%} ± {run['attacks'][a]['standard_error']:.1%}"
            for a in names
        ]
        yield line((name, str(run["steps"]), f"{run['train_seconds']:.0f}", *cells))
    yield (
        f"\nε = {recipe['epsilon']}, evaluated with steps of "
        f"{recipe.get('eval_step') or recipe['attack_step']}; ± one "
        "standard error.\n"
    )
    if not first["smoke"]:
        yield f"![Curves of {data}]({figure_name(document, data)})\n"


def figure_name(document: dict, data: str) -> str:
    return f"training-{document['machine']}-{data}.svg"


def training_figures(runs: Sequence[dict], folder: Path) -> Iterator[Path]:
    """A figure of each data set's curves; the same bytes for the same results."""
    for document in runs:
        kept = {n: r for n, r in document["runs"].items() if "error" not in r and not r["smoke"]}
        for data in dict.fromkeys(run["recipe"]["dataset"] for run in kept.values()):
            path = folder / figure_name(document, data)
            _figure({n: r for n, r in kept.items() if r["recipe"]["dataset"] == data}, path)
            yield path


def _figure(runs: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    look = {"svg.fonttype": "none", "svg.hashsalt": "tla_ops", "font.size": 11}
    with mpl.rc_context(look):
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(9.6, 4), facecolor="white", layout="constrained"
        )
        for name, run in runs.items():
            method = run["recipe"]["method"]
            for key, style, said in (
                ("val_clean", ":", "clean"),
                ("val_adversarial", "-", f"PGD-{run['recipe']['val_steps']}"),
            ):
                _curve(left, run, key, f"{name}, {said}", COLOURS.get(method, "0.4"), style)
        for name, run in runs.items():
            for key, style, said in (
                ("positive_distance", "-", "to the positive"),
                ("negative_distance", "--", "to the hardest negative"),
                ("active", ":", "share of active triplets"),
            ):
                colour = COLOURS.get(run["recipe"]["method"], "0.4")
                _curve(right, run, key, f"{name}, {said}", colour, style)
        left.set(xlabel="step", ylabel="accuracy on held-out training images", ylim=(0, 1))
        right.set(xlabel="step", ylabel="angular distance, share", ylim=(0, 1))
        for axes in (left, right):
            axes.grid(color="#d9d9d9", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=9)
        figure.savefig(path, format="svg", metadata={"Date": None})
        plt.close(figure)


def _curve(axes: Any, run: dict, key: str, label: str, colour: str, style: str) -> None:
    points = [(row["step"], row[key]) for row in run["curves"] if key in row]
    if points:
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=colour, linestyle=style, linewidth=2, label=label)
