"""Recipes: what decides a training run's numbers, in one flat YAML file an experiment.

A recipe's keys are the fields of :class:`Recipe` and the options of its method in
:mod:`tla_ops.training.methods`. ``base: NAME`` takes the keys of another file first. Budgets in
pixel space are exact fractions: ``8/255``.
"""

from __future__ import annotations

import difflib
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from tla_ops.training import attacks, methods
from tla_ops.training.augment import AUGMENT
from tla_ops.training.data import DATASETS
from tla_ops.training.models import MODELS
from tla_ops.training.steps import STATISTICS

FOLDER = Path(__file__).parent / "recipes"
METHODS: dict[str, Callable[..., methods.Step]] = {
    name: getattr(methods, name)
    for name in ("um", "at", "alp", "trades", "tla", "tla_rn", "tla_sa", "at2l")
}
ATTACKS: dict[str, Callable[..., Any]] = {
    name: getattr(attacks, name)
    for name in ("pgd", "fgsm", "bim", "mim", "ll", "ill", "cw_linf", "pgd_kl")
}
STEPPED = ("bim", "pgd", "pgd_long", "pgd20r", "mim", "cw", "ill", "transfer")
"""Attacks of `tla-ops evaluate` whose number of steps a recipe's `eval_steps` has."""
GIVEN = ("attack", "bank", "generator")
"""Keyword arguments of methods that the trainer makes from other keys."""


class RecipeError(ValueError):
    """A recipe that cannot be read or does not make sense; the text names the key."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the numbers of a run, but for the data's folder and the device."""

    name: str
    dataset: str
    """A name in `tla_ops.training.data.DATASETS`."""
    model: str
    """A name in `tla_ops.training.models.MODELS`."""
    method: str
    batch: int
    """Images a step, over all processes."""
    model_options: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    """The method's own; in a file they stand beside the other keys."""
    epochs: int | None = None
    max_steps: int | None = None
    """Training stops after `epochs` or `max_steps`, whichever is first."""
    candidates: int = 0
    """Images of the extra mini-batch that negatives are mined from."""
    bank: int = 0
    """Rows of a FeatureBank that replaces the extra mini-batch; 0: none."""
    attack: str = "pgd"
    epsilon: Fraction = Fraction(0)
    attack_step: Fraction = Fraction(0)
    attack_steps: int = 0
    attack_norm: str = "linf"
    attack_mode: str = "eval"
    """The model's mode while it is attacked in training."""
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 0.0
    schedule: dict[int, float] = field(default_factory=dict)
    """Learning rates from a step (or an epoch, see `schedule_unit`) on."""
    schedule_unit: str = "steps"
    grad_clip: float | None = None
    """Largest norm of the gradient."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is validated and
    kept; 0: none."""
    init_from: str | None = None
    """A checkpoint whose weights are where training starts."""
    augment: str = "none"
    val_images: int = 200
    """Training images that are held out to choose the best checkpoint by."""
    val_steps: int = 10
    """Steps of the PGD attack on them."""
    val_every: int = 500
    checkpoint_every: int = 500
    log_every: int = 50
    seed: int = 0
    precision: str = "32-true"
    """Of the training step: 32-true or bf16-mixed."""
    fast_attack: str = "float32"
    """Attack in training on a twin of the model in this precision (float32, bfloat16), or on the
    model itself: off."""
    eval_steps: dict[str, int] = field(default_factory=dict)
    """Steps of each iterated attack of `tla-ops evaluate`."""
    eval_step: Fraction | None = None
    """Their size; None: `attack_step`. A training with fewer, longer steps is then evaluated by the
    same attacks as one without."""

    @property
    def evaluation_step(self) -> Fraction:
        """The size of an evaluation's steps."""
        return self.attack_step if self.eval_step is None else self.eval_step

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as a file has them: fractions as text, options among the other keys."""
        values = asdict(self)
        values |= values.pop("options")
        return {k: str(v) if isinstance(v, Fraction) else v for k, v in values.items()}


CHOICES: dict[str, tuple[str, ...]] = {
    "dataset": tuple(DATASETS),
    "model": tuple(MODELS),
    "method": tuple(METHODS),
    "augment": tuple(AUGMENT),
    "attack": tuple(ATTACKS),
    "attack_norm": ("linf", "l2"),
    "attack_mode": ("eval", "train"),
    "optimizer": ("adam", "sgd"),
    "schedule_unit": ("steps", "epochs"),
    "precision": ("32-true", "bf16-mixed"),
    "fast_attack": ("off", "float32", "bfloat16"),
    "norm": ("l2", "mean_square"),
    "statistics": STATISTICS,
}
LARGEST = 2.0**62
# Lowest and highest value; a key that is None is left out.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("epochs", "max_steps", "val_every", "checkpoint_every"), (1, LARGEST)),
    **dict.fromkeys(("candidates", "bank", "attack_steps", "val_images", "seed"), (0, LARGEST)),
    **dict.fromkeys(("epsilon", "attack_step", "eval_step"), (0, LARGEST)),
    **dict.fromkeys(("learning_rate", "weight_decay"), (0, LARGEST)),
    **dict.fromkeys(("weight", "norm_weight", "adversarial_weight", "beta"), (0, LARGEST)),
    **{"log_every": (1, LARGEST), "val_steps": (0, LARGEST), "batch": (2, LARGEST)},
    **{"margin": (-LARGEST, LARGEST), "grad_clip": (1e-12, LARGEST), "noise": (0, 1)},
    **{"momentum": (0, 0.9999), "ema": (0, 0.999999), "label_smoothing": (0, 1)},
}


def recipe_names() -> list[str]:
    """Recipes that come with the package; files without a method are what others are based on."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if "method" in _flat(path))


def load_recipe(recipe: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe of the package by name, or a YAML file by its path.

    Args:
        recipe: ``mnist-tla``, or a path that ends in ``.yaml`` or ``.yml``.
        overrides: ``key=value`` each, the value as in YAML; ``key.name=value`` for one entry of a
            mapping.

    Raises:
        RecipeError: a file, a key or a value, by name; an unknown key's text lists the known ones.
    """
    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml"):
        path = FOLDER / f"{recipe}.yaml"
        files = {file.stem for file in FOLDER.glob("*.yaml")}
        if str(recipe) not in files or "method" not in _flat(path):
            raise RecipeError(f"recipe must be one of {', '.join(recipe_names())} or a .yaml file, "
                              f"got {str(recipe)!r}")  # fmt: skip
    values = {"name": path.stem} | _flat(path)
    for override in overrides:
        _override(values, override)
    return from_dict(values)


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values, checked."""
    values = dict(values)
    hints = get_type_hints(Recipe)
    required = [f.name for f in fields(Recipe) if f.name in ("dataset", "model", "method", "batch")]
    missing = [key for key in required if values.get(key) is None]
    if missing:
        raise RecipeError(f"recipe lacks {', '.join(missing)}")
    method = values["method"]
    if method not in METHODS:
        raise RecipeError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    own = method_options(method)
    known = [key for key in hints if key != "options"] + list(own)
    recipe: dict[str, Any] = {"options": {}}
    for key, value in values.items():
        if key in own:
            recipe["options"][key] = _converted(key, value, own[key])
        elif key in hints and key != "options":
            recipe[key] = _converted(key, value, hints[key])
        else:
            raise RecipeError(_unknown(key, method, known))
    made = Recipe(**recipe)
    _check(made)
    return made


def method_options(method: str) -> dict[str, Any]:
    """Names and types of the options that a method takes from a recipe."""
    function = METHODS[method]
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    return {
        parameter.name: hints[parameter.name]
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in GIVEN
    }


def _check(recipe: Recipe) -> None:
    values = vars(recipe) | recipe.options
    for key, choices in CHOICES.items():
        if key in values and values[key] not in choices:
            raise RecipeError(f"{key} must be one of {', '.join(choices)}, got {values[key]!r}")
    for key, (lowest, highest) in RANGES.items():
        value = values.get(key)
        if value is not None and not lowest <= value <= highest:  # NaN is not, either
            upper = "" if highest == LARGEST else f" and at most {highest}"
            raise RecipeError(f"{key} must be at least {lowest}{upper}, got {value}")
    for name, steps in recipe.eval_steps.items():
        if name not in STEPPED or steps < 1:
            raise RecipeError(
                f"eval_steps must be numbers of steps for {', '.join(STEPPED)}, got {name}: {steps}"
            )
    if not recipe.name or Path(recipe.name).name != recipe.name:
        raise RecipeError(f"name must be a file's name, got {recipe.name!r}")
    if recipe.epochs is None and recipe.max_steps is None:
        raise RecipeError("recipe needs epochs or max_steps")
    _check_method(recipe)


def _check_method(recipe: Recipe) -> None:
    """What the method needs, and what goes with its attack."""
    takes = inspect.signature(METHODS[recipe.method]).parameters
    needed = [name for name, p in takes.items()
              if p.default is p.empty and p.kind is p.KEYWORD_ONLY
              and name not in (*GIVEN, *recipe.options)]  # fmt: skip
    if needed:
        raise RecipeError(f"method {recipe.method} needs {', '.join(needed)}")
    if recipe.bank and "bank" not in takes:
        raise RecipeError(f"bank must be 0: method {recipe.method} takes none, got {recipe.bank}")
    if recipe.method.startswith("tla") and not (recipe.candidates or recipe.bank):
        raise RecipeError(f"candidates must be at least 1 for {recipe.method} without a bank")
    if "attack" in takes and recipe.attack not in ("fgsm", "ll") and recipe.attack_steps < 1:
        raise RecipeError(f"attack_steps must be at least 1 for {recipe.attack}")
    if recipe.attack_norm != "linf" and recipe.attack not in ("pgd", "bim"):
        raise RecipeError(f"attack_norm must be linf for {recipe.attack}, got {recipe.attack_norm}")


def _flat(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A file's keys over those of its base; `above` are the files that it is the base of."""
    import yaml

    if path in above:
        raise RecipeError(f"{path}: is its own base")

    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: must be keys and values, got {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return values
    beside = path.parent / f"{base}.yaml"
    below = beside if beside.exists() else FOLDER / f"{base}.yaml"
    return _flat(below, (*above, path)) | values


def _override(values: dict[str, Any], text: str) -> None:
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set must be key=value, got {text!r}")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {text}: {error}") from error
    key, dot, entry = key.partition(".")
    if dot:
        mapping = values.get(key) or {}
        if not isinstance(mapping, dict):
            raise RecipeError(f"--set {text}: {key} is not a mapping")
        values[key] = {**mapping, entry: parsed}
    else:
        values[key] = parsed


def _converted(key: str, value: Any, kind: Any) -> Any:
    """A YAML value as the type that the key has."""
    if get_origin(kind) in (Union, types.UnionType):
        if value is None:
            return None
        kind = next(option for option in get_args(kind) if option is not type(None))
    try:
        if get_origin(kind) is dict and isinstance(value, dict):
            key_type, value_type = get_args(kind)
            return {
                _converted(key, k, key_type): _converted(f"{key}.{k}", v, value_type)
                for k, v in value.items()
            }
        if kind is Any:
            return value
        if kind is Fraction and not isinstance(value, bool):
            return Fraction(str(value).replace(" ", ""))
        # PyYAML reads 1e-4 as text: YAML 1.1 asks for a point in it.
        if kind is float and not isinstance(value, bool):
            return float(value)
        if kind is int and isinstance(value, str):
            return int(value)
        if kind is str and value is False:  # what YAML 1.1 makes of off
            return "off"
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
    except RecipeError:
        raise
    except (ValueError, TypeError, ZeroDivisionError):
        pass
    wanted = getattr(kind, "__name__", "mapping")
    wanted = {"Fraction": "a number or a fraction such as 8/255", "dict": "a mapping"}.get(
        wanted, wanted
    )
    raise RecipeError(f"{key} must be {wanted}, got {value!r}")


def _unknown(key: str, method: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, 1)
    hint = f", did you mean {near[0]}?" if near else ";"
    return f"unknown key {key}{hint} keys of method {method}: {', '.join(sorted(known))}"
