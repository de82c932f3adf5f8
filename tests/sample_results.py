"""Folders as `tla-ops reproduce` leaves them, with numbers that look like a run's."""

import json

from tla_ops.experiments.tables import Cell, Column, Table

ENVIRONMENT = {
    "machine": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz, AVX512",
    "device": "cpu",
    "driver": None,
    "torch": "2.13.0+cpu",
    "cuda": None,
    "threads": 2,
    "commit": "5e7ab09d1f0c2b3a4e5d6c7b8a9f0e1d2c3b4a59",
    "date": "2026-03-01T10:20:30+00:00",
}
RECIPE = {
    **{"name": "digits-tla", "dataset": "digits", "model": "mlp", "method": "tla", "epochs": 1},
    **{"batch": 50, "optimiser": "adam", "learning_rate": 0.001, "epsilon": "3/16", "seed": 0},
    **{"attack_step": "3/160", "attack_norm": "linf", "eval_steps": {"pgd": 40, "mim": 40}},
    **{"lambda1": 0.5, "lambda2": 0.001, "margin": 0.05, "milestones": [], "schedule": None},
}
# Mao et al. 2019, Table 1, MNIST.
ATTACKS = ["Clean", "FGSM", "BIM", "C&W", "PGD", "PGD", "20PGD", "MIM", "Transfer"]
STEPS = [
    "",
    "1 step",
    "40 steps",
    "40 steps",
    "40 steps",
    "100 steps",
    "100 steps",
    "200 steps",
    "",
]
PAPER = {
    "UM": [0.9920, 0.3448, 0, 0, 0, 0, 0, 0, 0.3281],
    "AT": [0.9924, 0.9731, 0.9595, 0.9666, 0.9658, 0.9482, 0.9387, 0.9547, 0.9680],
    "ALP": [0.9891, 0.9734, 0.9600, 0.9650, 0.9662, 0.9506, 0.9493, 0.9541, 0.9696],
    "TLA-RN": [0.9948, 0.9834, 0.9656, 0.9748, 0.9740, 0.9673, 0.9612, 0.9665, 0.9784],
    "TLA-SA": [0.9934, 0.9815, 0.9655, 0.9742, 0.9728, 0.9664, 0.9608, 0.9662, 0.9777],
    "TLA": [0.9952, 0.9817, 0.9672, 0.9768, 0.9764, 0.9696, 0.9673, 0.9684, 0.9773],
}


# As tla_ops/experiments/rounds.py records it, and what is said of it.
IN_ROUNDS = {
    **{"rounds": 10, "attacks": ["fgsm", "carlini"], "networks": ["f", "mnist_b"]},
    **{"images": 60000, "steps": None, "seconds": None},
    "images_per_second": {"f": {"fgsm": 51234.5, "carlini": 0.84}, "mnist_b": {}},
}
LINE = (
    "10 rounds on sets of 60,000 training images by fgsm, carlini against f, mnist_b; "
    "images/s: f fgsm 51,234, carlini 0.8"
)


def run_of(name, **changes):
    return {
        "method": name.lower().replace("-", "_"),
        "name": f"digits-{name.lower()}",
        "steps": 24,
        "seconds": 3.14159,
        "seed": 0,
        "checkpoint": f"checkpoints/digits-{name.lower()}-1a2b3c4d/best.pt",
        "recipe": RECIPE | {"name": f"digits-{name.lower()}"},
        "changed": ["epochs: 30 in the recipe, 1 here"],
        **changes,
    }


def metrics(experiment="tla/table1", tables=None, **changes):
    return {
        "experiment": experiment,
        "title": "Accuracy under nine attacks",
        "source": "Mao et al. 2019, Table 1",
        "budget": "smoke",
        "complete": True,
        "seconds": 31.4,
        "notes": [
            "a smoke run: it shows that every part runs, and says nothing about the methods",
            "digits stand in for MNIST",
        ],
        "environment": ENVIRONMENT,
        "parts": [
            {
                "dataset": "digits",
                "stands_in_for": "mnist",
                "images": 100,
                "notes": ["100 of 360 test images, the first"],
                "runs": [run_of(name) for name in PAPER],
            }
        ],
        "tables": [accuracies().as_dict()] if tables is None else tables,
        "figures": [],
        "numbers": {},
        **changes,
    }


def accuracies():
    columns = [Column(name, "MNIST", note) for name, note in zip(ATTACKS, STEPS, strict=True)]
    rows = {}
    for i, (method, values) in enumerate(PAPER.items()):
        ours = [
            max(0, value - 0.031 + ((7 * i + 5 * j) % 13) / 250) for j, value in enumerate(values)
        ]
        ours = [round(min(1, value) * 1000) / 1000 for value in ours]
        rows[method] = [
            Cell(value, paper, (value * (1 - value) / 1000) ** 0.5)
            for value, paper in zip(ours, values, strict=True)
        ]
    rows["UM"][-1] = Cell(None, PAPER["UM"][-1], note="no source model")
    return Table(
        "Accuracy on test images, ℓ∞ ε = 0.3",
        "Method",
        columns,
        rows,
        mark_worst=True,
        notes=["20PGD: the worst of 20 random starts of each image."],
    )


def times():
    columns = [
        Column("Images", kind="number", best=""),
        Column("Mini-batch", "Time of a step", kind="seconds", best="min"),
        Column("Total", "Time of a step", kind="seconds", best="min"),
        Column("Clean", "CIFAR-10"),
        Column("PGD", "CIFAR-10", "20 steps"),
    ]
    paper = [(1, 0, 1.802, 0.8102, 0.4994), (250, 0.467, 2.259, 0.8638, 0.5071)]
    paper += [(500, 0.908, 2.688, 0.8832, 0.5046), (1000, 1.832, 3.621, 0.8671, 0.5122)]
    rows = {
        f"{pool}": [
            Cell(pool),
            Cell(time / 9.1, time),
            Cell(total / 8.7, total),
            Cell(clean + 0.0041, clean, 0.0034),
            Cell(pgd - 0.0123, pgd, 0.005),
        ]
        for pool, time, total, clean, pgd in paper
    }
    return Table("Time and accuracy against the size of the pool", "Candidates", columns, rows)


def draw(path, panels):
    """A figure with as many panels, in the house's colours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * panels, 4), dpi=110, layout="constrained")
    for place, axis in enumerate(figure.subplots(1, panels, squeeze=False)[0]):
        for line, colour in enumerate(("#4477AA", "#EE7733")):
            axis.plot([0, 1, 2, 3], [line, 1 + place, line, 2 - line], color=colour, marker="o")
        axis.set_title(f"panel {place + 1}")
        axis.set_xlabel("first principal component")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def put(folder, content):
    """Write one experiment's metrics where `tla-ops reproduce` would; returns the file."""
    name = content["experiment"].replace("/", "-")
    path = folder / content["budget"] / name / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def sample(folder):
    """Three experiments, one of each budget: a table of nine columns, one of times, two figures."""
    put(folder, metrics())
    gpu = ENVIRONMENT | {"machine": "NVIDIA H200", "device": "cuda:0", "cuda": "13.0"}
    put(
        folder,
        metrics(
            "tla/table2",
            [times().as_dict()],
            title="What negatives cost and bring",
            source="Mao et al. 2019, Table 2",
            budget="full",
            notes=[],
            seconds=54321.0,
            environment=gpu,
            parts=[{"dataset": "cifar10", "stands_in_for": None, "images": 10000, "runs": []}],
        ),
    )
    pictures = [
        {
            "file": "figure.png",
            "caption": "Features of clean and adversarial images.",
            "alt": "Dots",
        },
        {"file": "curves.png", "caption": "Distances while training.", "alt": "Two lines"},
    ]
    place = put(
        folder,
        metrics(
            "tla/fig2",
            [],
            title="Where adversarial images go in feature space",
            source="Mao et al. 2019, Figure 2",
            budget="short",
            complete=False,
            notes=["2 of 200 epochs", "one of two pairs of classes"],
            figures=pictures,
        ),
    )
    draw(place.with_name("figure.png"), 3)
    draw(place.with_name("curves.png"), 1)
    return folder
