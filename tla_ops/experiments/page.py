"""One experiment's ``metrics.json`` as Markdown, and the words that its HTML shares with it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from tla_ops.experiments.tables import escaped, markdown

OPTIONS = ("images", "slow_images", "without")
"""What a result's overrides have that is no recipe's key."""
LABELS = {
    "smoke": "Smoke run: not a result",
    "short": "Short run, not the paper's: less training, fewer images or a smaller network",
    "full": "Full run",
}


def page(metrics: dict[str, Any]) -> str:
    """The Markdown of one experiment: title, source, budget and notes, tables, figures as image
    links relative to ``metrics.json``, what it ran, and a line of hardware, seconds and date.
    """
    head = [part for part in (metrics.get("source"), metrics["experiment"]) if part]
    blocks = [
        f"# {escaped(metrics['title'])}",
        ", ".join(map(escaped, head)),
        "\n".join(f"**{escaped(text)}.**" for text in labels(metrics)),
        _items(metrics.get("notes")),
        *(markdown(table).rstrip() for table in metrics["tables"]),
        *(_image(figure) for figure in metrics.get("figures") or ()),
        "## What ran",
        *(_part(part) for part in metrics.get("parts") or ()),
        f"`{command(metrics)}`" if metrics.get("parts") else "",
        escaped(made(metrics)),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _items(texts: list[str] | None, indent: str = "") -> str:
    return "\n".join(f"{indent}- {escaped(text)}" for text in texts or ())


def _image(figure: dict[str, Any]) -> str:
    alt = escaped(figure.get("alt") or "").replace("[", r"\[").replace("]", r"\]")
    caption = escaped(figure.get("caption") or "")
    return f"![{alt}]({quote(figure['file'])})" + (f"\n\n{caption}" if caption else "")


def _part(part: dict[str, Any]) -> str:
    runs = part.get("runs") or []
    changes = [run.get("changed") or [] for run in runs]
    common = [text for text in changes[0] if all(text in own for own in changes)] if runs else []
    lines = [_items(part.get("notes"))]
    if common and len(runs) > 1:
        lines += ["- all runs differ from their recipes in", _items(common, "  ")]
    for run, own in zip(runs, changes, strict=True):
        rest = own if len(runs) == 1 else [text for text in own if text not in common]
        lines += [f"- {escaped(run_line(run))}", _items([*learning(run), *rest], "  ")]
    return "\n".join([f"{escaped(described(part))}\n", *filter(None, lines)]).rstrip()


def labels(metrics: dict[str, Any]) -> list[str]:
    """What a reader has to know before the numbers: the budget, and whether all parts finished."""
    budget = metrics["budget"]
    unfinished = [] if metrics["complete"] else ["Incomplete: not all of its parts finished"]
    asked = metrics.get("overrides") or []
    changed = [f"With {', '.join(asked)} in place of the budget's own"] if asked else []
    return [LABELS.get(budget, f"{budget.capitalize()} run"), *changed, *unfinished]


def command(metrics: dict[str, Any]) -> str:
    """What makes an experiment again, but for the folder of the data."""
    datasets = ",".join(part["dataset"] for part in metrics.get("parts") or ())
    words = ["tla-ops reproduce", metrics["experiment"], f"--budget {metrics['budget']}"]
    words += [f"--datasets {datasets}"] if datasets else []
    words += [f"--seed {metrics['seed']}"] if metrics.get("seed") else []
    for text in metrics.get("overrides") or ():
        name, _, value = text.partition("=")
        if name in OPTIONS:
            words.append(f"--{name.replace('_', '-')} {value}")
        else:
            words.append(f"--set {shlex.quote(text)}")
    return " ".join(words)


def described(part: dict[str, Any]) -> str:
    """A part's data set, what it stands in for, and how many test images there were."""
    text = part["dataset"]
    if part.get("stands_in_for"):
        text += f" in place of {part['stands_in_for']}"
    return text if part.get("images") is None else f"{text}, {part['images']} test images"


def run_line(run: dict[str, Any]) -> str:
    """A run's name, steps, time, seed and checkpoint, those that it has."""
    return ", ".join([run_name(run), *run_facts(run)])


def run_name(run: dict[str, Any]) -> str:
    return run.get("name") or run["method"]


def run_facts(run: dict[str, Any]) -> list[str]:
    """A run's steps, the checkpoint's among them, time, seed and checkpoint, those that it has."""
    texts = [f"{run['steps']} steps"] if run.get("steps") is not None else []
    texts += [f"best at {run['best_step']}"] if run.get("best_step") else []
    texts += [duration(run["seconds"])] if run.get("seconds") is not None else []
    texts += [f"seed {run['seed']}"] if run.get("seed") is not None else []
    return texts + ([run["checkpoint"]] if run.get("checkpoint") else [])


def learning(run: dict[str, Any]) -> list[str]:
    """Lines of how a run went, where it has them: its rounds, and its triplets."""
    return [*in_rounds(run), *of_triplets(run)]


def of_triplets(run: dict[str, Any]) -> list[str]:
    """A line of a run's triplets when they were first and last logged."""
    of = run.get("triplets")
    if not of:
        return []
    active, positive, negative = (
        " to ".join(dict.fromkeys(format(value, pattern) for value in of[name]))
        for name, pattern in (
            ("active", ".0%"), ("positive_distance", ".3f"), ("negative_distance", ".3f"),
        )
    )  # fmt: skip
    return [
        f"in training, from first to last: {active} of anchors with an active triplet, mean "
        f"distance to the positive {positive}, to the negative {negative}"
    ]


def in_rounds(run: dict[str, Any]) -> list[str]:
    """A line of a run in rounds: how many, on which adversarial sets, and how many of their images
    were made in a second, by the network that they are against. Other runs have none.
    """
    if run.get("rounds") is None:
        return []
    count = run["rounds"]
    text = f"{count} {'round' if count == 1 else 'rounds'}"
    if run.get("images") is not None:
        text += f" on sets of {run['images']:,} training images"
    text += f" by {', '.join(run['attacks'])}" if run.get("attacks") else ""
    text += f" against {', '.join(run['networks'])}" if run.get("networks") else ""
    rates = [
        f"{network} {', '.join(f'{kind} {_rate(rate)}' for kind, rate in by_attack.items())}"
        for network, by_attack in (run.get("images_per_second") or {}).items()
        if by_attack
    ]
    return [f"{text}; images/s: {'; '.join(rates)}" if rates else text]


def _rate(rate: float) -> str:
    return f"{rate:,.{0 if rate >= 100 else 1}f}"


def made(metrics: dict[str, Any]) -> str:
    """On what, with what, how long and when."""
    return ", ".join(
        text if name in ("machine", "date") else f"{name} {text}" for name, text in facts(metrics)
    )


def facts(metrics: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, text) of the environment's entries, then of the time that it took."""
    for name, value in (metrics.get("environment") or {}).items():
        text = str(value)
        if name == "commit":
            text = text[:10]
        elif name == "date":
            text = text.replace("T", " ").replace("+00:00", " UTC")
        if value is not None:
            yield name, text
    if metrics.get("seconds") is not None:
        yield "took, without what was found made,", duration(metrics["seconds"])
    runs = [run for part in metrics.get("parts") or () for run in part.get("runs") or ()]
    trained = sum(run.get("seconds") or 0 for run in runs)
    for name, seconds in (("trainings", trained), ("attacks", metrics.get("attack_seconds"))):
        if seconds:
            yield f"{name} took", duration(seconds)


def duration(seconds: float) -> str:
    """``12.3 s``, ``4 min 5 s`` or ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"
