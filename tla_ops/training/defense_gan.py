"""Defense-GAN (Samangouei et al. 2018): an image is replaced by the nearest that a GAN makes.

The networks are those of the AT2L paper's Table 18 (IJCAI 2019, appendix), which repeats Defense-
GAN's own. What neither says is taken from Defense-GAN's public code, a WGAN-GP (Gulrajani et al.
2017).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tla_ops import _checks
from tla_ops.training._ascent import attacking, ordinary

LATENT_DIM = 128
"""Of Defense-GAN's code; the papers do not say."""


def mnist_generator(
    latent_dim: int = LATENT_DIM, layout: str = "printed", width: float = 1.0
) -> nn.Sequential:
    """Table 18's generator, from latent vectors (B, latent_dim) of N(0, 1) to images
    (B, 1, 28, 28) in [0, 1].

    Args:
        latent_dim: dimension of the latent vectors.
        layout: "printed" has the table's layers and strides: 4,096 features are 16 channels of
            16 x 16, and each 5 x 5 convolution with a stride of 1, to 256, 128 and 1 channels, adds
            4 to the side. The table does not say how features become pixels; this is the one square
            that its layers take to 28. "source" is Defense-GAN's code: 256 channels of 4 x 4,
            strides of 2, to 128, 64 and 1 channels by sides of 8, of which 7 are kept, 14 and 28;
            it takes a fifteenth of the work.
        width: times as many channels, one or more, but for the image's.
    """
    _checks.choice("mnist_generator", "layout", layout, ("printed", "source"))
    if layout == "printed":
        (a, b, c), side = _widths("mnist_generator", width, 16, 256, 128), 16
        layers = [
            *(nn.ConvTranspose2d(a, b, 5), nn.ReLU(inplace=True)),
            *(nn.ConvTranspose2d(b, c, 5), nn.ReLU(inplace=True)),
            nn.ConvTranspose2d(c, 1, 5),
        ]
    else:
        (a, b, c), side = _widths("mnist_generator", width, 256, 128, 64), 4
        layers = [
            *(_doubling(a, b), nn.ReLU(inplace=True), nn.ZeroPad2d((0, -1, 0, -1))),
            *(_doubling(b, c), nn.ReLU(inplace=True)),
            _doubling(c, 1),
        ]
    features = nn.Linear(latent_dim, a * side * side)
    first = (features, nn.ReLU(inplace=True), nn.Unflatten(1, (a, side, side)))
    return nn.Sequential(*first, *layers, nn.Sigmoid())


def mnist_discriminator(sigmoid: bool = False, width: float = 1.0) -> nn.Sequential:
    """Table 18's discriminator, from images (B, 1, 28, 28) to scores (B, 1): three 5 x 5
    convolutions with strides of 2, padded by 2, which the table does not print.

    The table ends in a sigmoid. A WGAN's critic has none, nor has Defense-GAN's code: ``sigmoid``
    adds it, for other losses than :func:`critic_loss`. ``width`` is times as many channels, one or
    more.
    """
    layers: list[nn.Module] = []
    channels = (1, *_widths("mnist_discriminator", width, 64, 128, 256))
    for channels_in, channels_out in pairwise(channels):
        layers.append(nn.Conv2d(channels_in, channels_out, 5, 2, padding=2))
        layers.append(nn.LeakyReLU(0.2, inplace=True))
    layers += [nn.Flatten(), nn.Linear(channels[-1] * 4 * 4, 1)]
    return nn.Sequential(*layers, *([nn.Sigmoid()] if sigmoid else []))


def critic_loss(
    critic: nn.Module,
    real: Tensor,
    fake: Tensor,
    *,
    penalty: float = 10.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """WGAN-GP's loss of the critic D (Gulrajani et al. 2017, equation 3), a scalar:

    mean D(fake) - mean D(real) + penalty · mean (‖∇D(x̂)‖₂ - 1)².

    Each x̂ is uniform between an image of ``real`` (B, ...) and one of ``fake`` (B, ...), drawn from
    ``generator`` or torch's default; the norm is over all pixels (that of Defense-GAN's code is
    over the rows alone).
    """
    share = torch.rand(len(real), dtype=real.dtype, device=real.device, generator=generator)
    between = torch.lerp(real, fake, share.view(-1, *[1] * (real.ndim - 1))).detach()
    between.requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    steepness = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    loss = critic(fake).mean() - critic(real).mean()
    return loss + penalty * (steepness - 1).square().mean()


def gan_optimizers(
    network: nn.Module, critic: nn.Module, learning_rate: float = 1e-4
) -> tuple[torch.optim.Adam, torch.optim.Adam]:
    """Of ``network`` and of ``critic``: Adam with β = (.5, .9), and Defense-GAN's learning rate for
    MNIST.
    """
    options: dict[str, Any] = {"lr": learning_rate, "betas": (0.5, 0.9)}
    return (
        torch.optim.Adam(network.parameters(), **options),
        torch.optim.Adam(critic.parameters(), **options),
    )


def wgan_gp(
    network: nn.Module,
    critic: nn.Module,
    images: Tensor,
    *,
    latent_dim: int = LATENT_DIM,
    batch: int = 50,
    critic_steps: int = 5,
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer] | None = None,
    penalty: float = 10.0,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Train a GAN, a step at a time: ``for step, losses in zip(range(200_000), wgan_gp(...))``.

    Each step is ``critic_steps`` updates of the critic by :func:`critic_loss`, then one of
    ``network`` by -mean D(fake). The defaults, and the 200,000 steps, are those of Defense-GAN's
    code for MNIST.

    Args:
        network: latent vectors (B, latent_dim) to images.
        critic: images to scores (B, 1) or (B,).
        images: (N, ...) in [0, 1], on the networks' device; a batch is drawn with replacement.
        batch: images of an update.
        optimizers: of ``network`` and of ``critic``; None: those of :func:`gan_optimizers`. With
            their state and the networks' a training goes on from where another one ended.
        generator: draws batches, latent vectors and :func:`critic_loss`'s points, on the images'
            device; torch's default if None.

    Yields:
        The losses of the step's last update of the critic and of ``network``: scalars, detached.
    """
    optimizer, critic_optimizer = optimizers or gan_optimizers(network, critic)
    dtype, device = images.dtype, images.device

    def fake() -> Tensor:
        shape = batch, latent_dim
        return network(torch.randn(shape, dtype=dtype, device=device, generator=generator))

    while True:
        for _ in range(critic_steps):
            rows = torch.randint(len(images), (batch,), device=device, generator=generator)
            with torch.no_grad():
                made = fake()
            worst = critic_loss(critic, images[rows], made, penalty=penalty, generator=generator)
            critic_optimizer.zero_grad()
            worst.backward()
            critic_optimizer.step()
        loss = -critic(fake()).mean()
        optimizer.zero_grad()
        loss.backward(inputs=list(network.parameters()))
        optimizer.step()
        yield worst.detach(), loss.detach()


class DefenseGAN(nn.Module):
    """Images (B, C, H, W) to the nearest that ``network`` makes: :meth:`project` with ``options``.

    Args:
        network: latent vectors (N, latent_dim) to images (N, C, H, W); trained on clean images.
        latent_dim: dimension of its latent vectors.
        options: of :meth:`project`, checked there.

    The projection has no gradient: attacks are made on the classifier alone, and what they find is
    projected.
    """

    def __init__(self, network: nn.Module, latent_dim: int = LATENT_DIM, **options: Any) -> None:
        super().__init__()
        self.network, self.latent_dim, self.options = network, latent_dim, options

    def forward(self, images: Tensor) -> Tensor:
        return self.project(images, **self.options)

    def project(
        self,
        images: Tensor,
        iterations: int = 200,
        restarts: int = 10,
        learning_rate: float = 10.0,
        momentum: float = 0.7,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """For each image x the G(z) of the smallest error, the mean over pixels of (G(z) - x)²,
        among ``restarts`` descents of that error.

        L = 200 iterations and R = 10 restarts are the AT2L paper's; the rest is Defense-GAN's code:
        a start from N(0, 1 / latent_dim), and steps of z by momentum. Its learning rate is meant to
        fall tenfold for the last fifth, by a counter that nothing moves; here it stays.

        Args:
            images: (B, C, H, W) in [0, 1]. B · restarts of them are in memory at a time.
            iterations: L, number of steps.
            restarts: R, 1 or more.
            learning_rate: of the steps in z.
            momentum: share of the last step's velocity that is kept.
            generator: draws the starts, on the images' device; torch's default if None.

        Returns:
            Images (B, C, H, W), detached, in the images' dtype. A descent that ends in NaN is the
            last to be taken.

        Raises:
            ValueError: for ``iterations`` below 0, ``restarts`` below 1, or images of another shape
                than the network's.

        The network runs in eval mode and gets its own modes back; no gradient of its parameters is
        computed.
        """
        for name, value, least in (("iterations", iterations, 0), ("restarts", restarts, 1)):
            if not value >= least:
                raise ValueError(f"project: {name} must be at least {least}, got {value}")
        with attacking(self.network, "eval"):
            images = ordinary(images)
            wanted = images.repeat_interleave(restarts, 0)
            shape = len(wanted), self.latent_dim
            latent = torch.randn(
                shape, dtype=images.dtype, device=images.device, generator=generator
            )
            latent = latent / self.latent_dim**0.5
            velocity = torch.zeros_like(latent)
            for _ in range(iterations):
                with torch.enable_grad():
                    latent.requires_grad_()
                    errors = _errors(self.network(latent), wanted)
                    (gradient,) = torch.autograd.grad(errors.sum(), latent)
                velocity = momentum * velocity + gradient
                latent = latent.detach() - learning_rate * velocity
            made = self.network(latent)
            errors = _errors(made, wanted).nan_to_num(nan=torch.inf).view(len(images), restarts)
            best = errors.argmin(1) + restarts * torch.arange(len(images), device=images.device)
            return made[best].to(images.dtype)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


def _errors(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean square over the pixels of each image (N, ...): (N,)."""
    if made.shape != wanted.shape:
        raise ValueError(
            f"project: images must be (B, {', '.join(map(str, made.shape[1:]))}) as the network's "
            f"are, got (B, {', '.join(map(str, wanted.shape[1:]))})"
        )
    return (made - wanted).square().flatten(1).mean(1)


def _widths(where: str, width: float, *channels: int) -> tuple[int, ...]:
    if not 0 < width <= 16:
        raise ValueError(f"{where}: width must be above 0 and at most 16, got {width}")
    return tuple(max(1, round(width * count)) for count in channels)


def _doubling(channels_in: int, channels_out: int) -> nn.ConvTranspose2d:
    """A 5 x 5 convolution that doubles the side."""
    return nn.ConvTranspose2d(channels_in, channels_out, 5, 2, padding=2, output_padding=1)
