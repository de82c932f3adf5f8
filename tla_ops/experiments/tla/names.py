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
