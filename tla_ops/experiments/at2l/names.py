"""What the AT2L paper calls things, by our keys."""

METHODS = {"at": "Adv. train", "at2l": "AT2L", "tr": "Triplet reg."}
ATTACKS = {
    "clean": "Clean",
    "fgsm": "FGSM",
    "cw": "C&W",
    "ls_pga": "PGD/LS-PGA",
    "deepfool": "DeepFool",
}
TRAINED_WITH = {
    "fgsm": "FGSM",
    "bim": "iter FGSM",
    "ll": "LL",
    "ill": "iter LL",
    "gradient": "Gradient-based",
    "optimization": "Optimization-based",
    "mixed": "Mixed",
}
DATASETS = {
    "cats-vs-dogs": "Cats vs. Dogs",
    "cifar10-cats-dogs": "CIFAR-10's cats and dogs",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "imagenet": "ImageNet",
    "digits": "UCI digits",
}
LARGE = ("VGG16", "VGG19", "inceptionv3", "resnet50")
SMALL = ("A", "B", "C", "D")
NETWORKS = {
    "A": "mnist_a",
    "B": "mnist_b",
    "C": "mnist_c",
    "D": "mnist_d",
    "VGG16": "vgg16",
    "VGG19": "vgg19",
    "inceptionv3": "inception_v3",
    "resnet50": "at2l_resnet50",
}
"""The paper's networks, of its Table 6 and of torchvision, by their names in `models.MODELS`."""
GREY = ("digits", "mnist")
"""Data sets of one channel, where A to D, in their order, stand in for the larger networks."""
