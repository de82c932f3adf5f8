"""How much work a reproduction does: smoke, short or full, as `budgets.yaml` has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("smoke", "short", "full")
FILE = Path(__file__).with_name("budgets.yaml")


@dataclass(frozen=True)
class Budget:
    """See `budgets.yaml`; None is no limit."""

    name: str
    images: int | None = None
    slow_images: int | None = None
    pool: int | None = None
    steps: int | None = None
    restarts: int | None = None
    queries: int | None = None
    negatives: list[int] | None = None
    repeats: int = 10
    rounds: int | None = None
    learned: dict[str, int] = field(default_factory=dict)
    width: float = 1.0
    cw_steps: int | None = None
    gan: dict[str, Any] = field(default_factory=dict)
    recipes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def overrides(self, dataset: str, recipe: str = "") -> list[str]:
        """What a recipe of a data set gets, in the form of `--set`: under its own name, or under
        its data set's.
        """
        import yaml

        values = self.recipes.get(recipe, self.recipes.get(dataset, {}))
        return [
            f"{key}={yaml.safe_dump(value, default_flow_style=True).partition('...')[0].strip()}"
            for key, value in values.items()
        ]


def load_budget(name: str) -> Budget:
    """A budget of `NAMES`; another name is a ValueError."""
    import yaml

    if name not in NAMES:
        raise ValueError(f"budget must be one of {', '.join(NAMES)}, got {name!r}")
    return Budget(name, **yaml.safe_load(FILE.read_text())[name])
