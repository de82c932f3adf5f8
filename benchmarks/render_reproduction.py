"""docs/reproduction.md: the papers' tables as far as they have been made, from the `metrics.json`
of `tla-ops reproduce` that `keep_reproduction.py` put under benchmarks/results.
"""

from __future__ import annotations

import json
from contextlib import suppress

from seeds import seeds_section

from tla_ops.experiments.budget import load_budget
from tla_ops.experiments.page import page
from tla_ops.experiments.targets import TARGETS
from tla_ops.experiments.variants import varied
from tla_ops.training.recipe import RecipeError

INTRO = """# Reproduction

Rendered by `benchmarks/render.py` from `benchmarks/results/*/reproduce/`. `tla-ops reproduce
--list` shows every table and figure and what it needs; `tla-ops reproduce TARGET --budget full
--data DIR` makes one as the paper has it. What stands here is what has been made so far, each with
its budget, what differs from the paper's recipe, hardware and time; where there are several seeds,
first their means. What an older recipe made says so. Smoke runs are left out: CI makes them all.
Minutes are of machines that others used, too: they are no speeds. [Does the triplet loss
help?](ablation.md) has runs that differ in one thing each, in search of why TLA is not above AT.
MNIST's `statistics: adversarial` was chosen there, on training images; it was looked for because an
older table, of 200 of the test images, had TLA far below AT. Where a target stands twice, its
models are others each time: what was changed, and on what processor, stands with each.
"""


def reproduction_page(documents: list[dict]) -> str:
    """All documents, in the papers' order, of a target those by today's recipes first; their
    titles become sections, without their figures.
    """
    order = list(TARGETS)
    made = [
        document
        for document in documents
        if document["budget"] != "smoke" and document["experiment"] in order
    ]
    made.sort(key=lambda document: document.get("seed", 0))
    parts = [INTRO]
    groups = sorted(
        _alike(made),
        key=lambda group: (
            order.index(group[0]["experiment"]), bool(_since(group[0])), -len(group),
        ),
    )  # fmt: skip
    seen = set()
    for alike in groups:
        name = alike[0]["experiment"]
        other = name in seen and not _since(alike[0])
        seen.add(name)
        if other:
            alike = [one | {"title": f"{one['title']}, with other options"} for one in alike]
        parts += [seeds_section(alike), *map(_section, alike)]
    if not made:
        parts.append("Nothing has been made beyond smoke runs.")
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _alike(documents: list[dict]) -> list[list[dict]]:
    """Documents that differ in their seed alone stand together, in the order of the first."""
    groups: dict[str, list[dict]] = {}
    for document in documents:
        ran = [
            [part["dataset"], part.get("images"), *(_unseeded(run) for run in part["runs"])]
            for part in document.get("parts", ())
        ]
        about = (document["experiment"], document["budget"], document["environment"]["machine"])
        key = json.dumps([*about, document.get("overrides"), ran], sort_keys=True)
        groups.setdefault(key, []).append(document)
    return list(groups.values())


def _unseeded(run: dict) -> dict:
    """A run's recipe but for its seed, which of a transfer's source is another one."""
    return {key: value for key, value in run.get("recipe", {}).items() if key != "seed"}


def _section(document: dict) -> str:
    title = document["title"]
    if document.get("seed"):
        title += f", seed {document['seed']}"
    since = _since(document)
    if since:
        title += ", by an older recipe"
    notes = [*document["notes"], *(f"{text}: the command below makes another experiment today"
                                   for text in since)]  # fmt: skip
    text = page(document | {"figures": [], "title": title, "notes": notes})
    return "\n".join(_lower(line) for line in text.splitlines())


def _since(document: dict) -> list[str]:
    """What the recipes of its runs have today, under its budget, that they had not when it was
    made: a key of None leaves everything as it was.
    """
    added: dict[str, list[str]] = {}
    for run in (run for part in document.get("parts", ()) for run in part["runs"]):
        recipe = run["recipe"]
        with suppress(RecipeError):  # of a name that is no recipe's any more
            budget = load_budget(document["budget"]).overrides(recipe["dataset"], recipe["name"])
            today = varied(recipe["name"], recipe["seed"], budget).as_dict()
            for key in {key for key in today if today[key] is not None} - recipe.keys():
                names = added.setdefault(f"{key}={today[key]}", [])
                names += [recipe["name"]] if recipe["name"] not in names else []
    return [
        f"made before {text} came into the recipes {', '.join(names)}"
        for text, names in sorted(added.items())
    ]


def _lower(line: str) -> str:
    return f"#{line}" if line.startswith("#") else line
