"""Attacks of the Adversarial Robustness Toolbox (ART) in the form of our own; extra ``[eval]``.

``attack(model, images, labels)`` takes a model from images to logits (B, C), images (B, ...) in
[0, 1] on a CPU or CUDA device and labels (B,) of integer classes. What comes back has the images'
shape, dtype and device, is detached and within [0, 1]; no other bound holds but that of
:func:`autoattack`. An image that the model gets wrong comes back as it is. ``batch_size`` images
are worked on at a time; ``classes`` is C, which need not be given.

The model runs in eval mode and gets its own modes back. Gradients of parameters, and the random
streams of NumPy and of torch on the host, are left as they were. ART works in float32 and on NumPy
arrays between the model's calls: these attacks are for evaluation, not for training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tla_ops import _checks
from tla_ops.training._ascent import Norm, attacking, ball_around, logits_of


def deepfool(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int = 100,
    overshoot: float = 1e-6,
    gradients: int = 10,
    classes: int | None = None,
    batch_size: int = 128,
) -> Tensor:
    """DeepFool (Moosavi-Dezfooli et al. 2016): at most ``steps`` times across the nearest boundary,
    in l2, of the model made linear at the image.

    The whole perturbation is stretched by 1 + ``overshoot`` (ART's default; the authors' code has
    0.02). With more classes than ``gradients``, boundaries are those of the classes that are among
    the ``gradients`` likeliest on any clean image of the call.
    """

    def generate(art: Any, job: _Job) -> Any:
        attack = art.DeepFool(job.classifier, steps, overshoot, gradients, batch_size, False)
        return attack.generate(job.pixels)

    return _run("deepfool", model, images, labels, classes, generate)


def cw_l2(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    confidence: float = 0.0,
    steps: int = 100,
    learning_rate: float = 0.01,
    searches: int = 10,
    constant: float = 0.01,
    classes: int | None = None,
    batch_size: int = 128,
) -> Tensor:
    """Carlini and Wagner's l2 attack (2017): the smallest perturbation it finds whose wrong logit
    leads the true one by ``confidence``.

    ``searches`` values of the trade-off constant, a binary search that begins at ``constant``, get
    at most ``steps`` each of gradient descent with a line search from ``learning_rate`` on; the
    authors' code uses Adam. An image for which none succeeds comes back as it is.
    """

    def generate(art: Any, job: _Job) -> Any:
        attack = art.CarliniL2Method(
            job.classifier,
            confidence,
            learning_rate=learning_rate,
            binary_search_steps=searches,
            max_iter=steps,
            initial_const=constant,
            batch_size=batch_size,
            verbose=False,
        )
        return attack.generate(job.pixels, job.labels)

    return _run("cw_l2", model, images, labels, classes, generate)


def jsma(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    theta: float = 0.1,
    gamma: float = 1.0,
    targets: Tensor | None = None,
    classes: int | None = None,
    batch_size: int = 128,
) -> Tensor:
    """Jacobian-based saliency map attack (Papernot et al. 2016): adds ``theta`` to two pixels at a
    time until the model says the target class, or more than a share ``gamma`` of the pixels has
    changed, or none can.

    ``targets`` (B,) are classes; where not given, the wrong class that the model finds likeliest on
    the clean image. The two pixels are those where the target's logit grows fastest: ART leaves out
    the paper's condition on the other classes. An image that never becomes the target's comes back
    as changed as it is then.

    Raises:
        ValueError: for a ``theta`` of 0, which would never end.
    """
    if _checks.number("jsma", "theta", theta) == 0:
        raise ValueError("jsma: theta must not be 0, got 0")

    def generate(art: Any, job: _Job) -> Any:
        aims = job.logits.scatter(1, job.labels_there[:, None], -torch.inf).argmax(1)
        if targets is not None:
            aims = targets[job.rows]
        attack = art.SaliencyMapMethod(job.classifier, theta, gamma, batch_size, verbose=False)
        return attack.generate(job.pixels, aims.cpu().numpy())

    return _run("jsma", model, images, labels, classes, generate)


def autoattack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: Fraction,
    norm: Norm = "linf",
    steps: int = 100,
    restarts: int = 5,
    queries: int = 5000,
    seed: int = 0,
    classes: int | None = None,
    batch_size: int = 128,
) -> Tensor:
    """ART's AutoAttack in the ball of radius ``epsilon``, a fraction of [0, 1]: four attacks, each
    on the images that withstood those before.

    In order: APGD on the cross entropy and APGD on the difference of logits ratio (DLR), both
    untargeted, with ``restarts`` runs of ``steps`` and a first step of 2 ``epsilon`` (ART's own
    default is 0.1); DeepFool, at most ``steps`` long, which counts where its perturbation happens
    to lie in the ball; Square, with ``restarts`` runs of ``queries``. Below three classes DLR is
    not defined and left out.

    This is not the standard AutoAttack of Croce and Hein (2020): theirs has targeted APGD on DLR
    and targeted FAB where this has untargeted DLR and DeepFool, and its APGD ends at the best point
    of a run, where ART's ends at the last. Accuracies can be higher than under theirs, and do not
    compare with RobustBench's.

    Args:
        model, images, labels, classes, batch_size: as the module says; images (B, C, H, W).
        epsilon: above 0.
        norm: "linf" or "l2", the ball's.
        seed: of the random starts and of Square, so that a call repeats.

    Returns:
        Images as ``images``, within the ball and within [0, 1]; those that withstand everything are
        the clean ones.

    Raises:
        ModuleNotFoundError: naming the extra, where ART or ``multiprocess`` is missing.
        ValueError: for an ``epsilon`` of 0 or below, or another ``norm``.
    """
    if not epsilon > 0:
        raise ValueError(f"autoattack: epsilon must be above 0, got {epsilon}")
    _checks.choice("autoattack", "norm", norm, ("linf", "l2"))
    _needs("autoattack", "multiprocess")  # which ART imports even where one process does it all
    radius = float(epsilon)

    def generate(art: Any, job: _Job) -> Any:
        ball = {"norm": "inf" if norm == "linf" else 2, "eps": radius}
        many = {"batch_size": batch_size, "verbose": False}
        losses = ["cross_entropy", "difference_logits_ratio"][: 2 if job.logits.shape[1] > 2 else 1]
        battery = [
            art.AutoProjectedGradientDescent(
                job.classifier,
                **ball,
                eps_step=2 * radius,
                max_iter=steps,
                nb_random_init=restarts,
                loss_type=loss,
                **many,
            )
            for loss in losses
        ]
        battery.append(art.DeepFool(job.classifier, steps, 1e-3, **many))
        battery.append(
            art.SquareAttack(
                job.classifier, **ball, max_iter=queries, p_init=0.8, nb_restarts=restarts, **many
            )
        )
        attack = art.AutoAttack(
            job.classifier, **ball, eps_step=2 * radius, attacks=battery, batch_size=batch_size
        )
        return attack.generate(job.pixels, job.labels)

    adversarial = _run("autoattack", model, images, labels, classes, generate, seed)
    # ART grants a hair more than the ball.
    return ball_around(images.detach(), radius, norm).project(adversarial)


class _Job(NamedTuple):
    """What ART gets, of the images that the model gets right: ``rows`` (R,) of the batch.

    ``classifier`` is ART's; ``pixels`` (R, ...) float32 and ``labels`` (R,) are NumPy arrays;
    ``labels_there`` (R,) and the clean ``logits`` (R, C) are on the images' device.
    """

    classifier: Any
    pixels: Any
    labels: Any
    rows: Tensor
    labels_there: Tensor
    logits: Tensor


def _run(
    where: str,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    classes: int | None,
    generate: Callable[[Any, _Job], Any],
    seed: int = 0,
) -> Tensor:
    """The images, those the model gets right replaced by ``generate(art.attacks.evasion, job)``."""
    evasion = _needs(where, "art.attacks.evasion")
    estimators = _needs(where, "art.estimators.classification")
    if images.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{where}: images must be on a CPU or CUDA device, got {images.device}")
    with attacking(model, "eval"), torch.cuda.device_of(images), _undisturbed(model, seed):
        result = images.detach().clone()
        logits, labels = logits_of(model, result), labels.long()
        if classes is not None and classes != logits.shape[1]:
            raise ValueError(
                f"{where}: classes must be the model's {logits.shape[1]} logits, got {classes}"
            )
        rows = (logits.argmax(1) == labels).nonzero()[:, 0]
        if not len(rows):
            return result
        classifier = estimators.PyTorchClassifier(
            _InFloat32(model, images.dtype),
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(images.shape[1:]),
            nb_classes=logits.shape[1],
            clip_values=(0.0, 1.0),
            device_type="gpu" if images.is_cuda else "cpu",
        )
        labels = labels[rows]
        arrays = result[rows].float().cpu().numpy(), labels.cpu().numpy()
        with torch.enable_grad():
            found = generate(evasion, _Job(classifier, *arrays, rows, labels, logits[rows]))
        result[rows] = torch.from_numpy(found).to(result).clamp(0, 1)
    return result


def _needs(where: str, module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{where} needs {error.name}: pip install 'tla_ops[eval]'", name=error.name
        ) from error


class _InFloat32(nn.Module):
    """The model with float32 in and out, whatever it computes in."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, images: Tensor) -> Tensor:
        return logits_of(self.model, images.to(self.dtype)).float()


@contextmanager
def _undisturbed(model: nn.Module, seed: int) -> Iterator[None]:
    """Parameters without gradients, which ART would compute and clear, and NumPy's random stream
    from ``seed``; then all as it was.
    """
    random = import_module("numpy").random
    stream = random.get_state()
    kept = [(value, value.requires_grad, value.grad) for value in model.parameters()]
    try:
        for value, _, _ in kept:
            value.requires_grad_(False)
            value.grad = None
        random.seed(seed % 2**32)  # NumPy takes no larger ones
        with torch.random.fork_rng(devices=[]):  # ART's data loaders draw from it
            yield
    finally:
        random.set_state(stream)
        for value, wanted, gradient in kept:
            value.requires_grad_(wanted)
            value.grad = gradient
