"""What the TLA paper calls things, by our keys."""

METHODS = {
    "um": "UM",
    "at": "AT",
    "alp": "ALP",
    "tla-rn": "TLA-RN",
    "tla-sa": "TLA-SA",
    "tla": "TLA",
}
DATASETS = {
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "tiny-imagenet": "Tiny ImageNet",
    "digits": "UCI digits",
}
ATTACKS = {
    "clean": "Clean",
    "fgsm": "FGSM",
    "bim": "BIM",
    "cw": "C&W",
    "pgd": "PGD",
    "pgd_long": "PGD",
    "pgd20r": "20PGD",
    "mim": "MIM",
    "transfer": "BB",
    "autoattack": "AutoAttack",
    "jsma": "JSMA (l0)",
    "pgd_l2": "PGD (l2)",
    "cw_l2": "C&W (l2)",
    "deepfool": "DeepFool (l2)",
}
CLASSES = {
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
}
"""Names of classes in the order of their labels, where the figures use names."""


def class_names(dataset: str, classes: int) -> tuple[str, ...]:
    """Names of a data set's classes; where it has none, digits or numbers."""
    if dataset in CLASSES:
        return CLASSES[dataset]
    word = "digit" if dataset in ("digits", "mnist") else "class"
    return tuple(f"{word} {label}" for label in range(classes))
