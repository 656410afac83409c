"""Stage "joint": autoencoder and denoiser together, on Eq. 4 and Eq. 19 with erratum 4, in place of two stages."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from betadiffusion.data import ImageSet
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.models.vae import VAEOutput
from betadiffusion.training.config import DiffusionConfig, JointConfig, LevelsConfig, PathConfig, PerceptualConfig
from betadiffusion.training.denoising import denoising_errors
from betadiffusion.training.diffusion_stage import HALF_STEP, DiffusionStage, encode_with_velocity
from betadiffusion.training.feature_cache import FeatureCache
from betadiffusion.training.images import load_images, pass_size
from betadiffusion.training.models import Autoencoder, mean_of, seen
from betadiffusion.training.vae_stage import VAEStage

FIRST_IMAGES = 64
PREDICTIONS = ("velocity", "flow")
COLLAPSED = 1.0  # nats at level 0, below which a path says nothing of its image


class JointOutput(NamedTuple):
    """One pass of a `JointModel`: the autoencoder's, Eq. 19 of each image (B,), f and df/dt without gradient."""

    vae: VAEOutput
    denoising: Tensor
    f: Tensor
    velocity: Tensor


class JointModel(nn.Module):
    """An autoencoder and the denoiser between its levels, in one pass; with `stop_gradient` the second half of the
    pass gives the first no gradient.

    The moments of f and df/dt that the denoiser counts on (`nn.preconditioning`) move while the autoencoder learns.
    `follow` keeps them: the buffer `moments` (6, knots, C) holds running means of 1, f, v, f^2, v^2, f v by level.
    """

    def __init__(self, vae: Autoencoder, denoiser: NonlinearDenoiser, stop_gradient: bool) -> None:
        super().__init__()
        self.vae, self.denoiser, self.stop_gradient = vae, denoiser, stop_gradient
        self.register_buffer("moments", torch.zeros(6, *denoiser.preconditioning.f_mean.shape))

    def forward(self, x: Tensor, t: Tensor, eps: Tensor, features: Tensor | None = None) -> JointOutput:
        """Images (B,C,H,W) at levels t (B,) with noise eps (B,c,h,w); `features` of x spare a ViT."""
        if hasattr(self.vae, "features"):
            features = self.vae.features(x) if features is None else features
            out = self.vae(x, t, eps, features=features)
        else:
            out = self.vae(x, t, eps)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.stop_gradient):
            velocity = slope(self.vae, x if features is None else features, t)
        f, sigma = self.vae.prior_scale(t) * out.mean, self.vae.sigma(t)  # of the path, from units of the prior
        if self.stop_gradient:
            f, sigma = f.detach(), sigma.detach()
        errors = denoising_errors(self.denoiser, self.denoiser, lambda _: (f, velocity), sigma, t, t - 1, eps)
        return JointOutput(out, errors.sum(1), f.detach(), velocity.detach())

    @torch.no_grad()
    def follow(self, sums: Tensor, half_life: float) -> None:
        """Takes `moment_sums` of a batch into the running moments, whose half-life is in images, and these into the
        denoiser's tables."""
        positions = sums[0, :, 0].sum()  # the weights of one position add up to 1
        images = positions / (self.denoiser.config.latent_shape[1] * self.denoiser.config.latent_shape[2])
        self.moments.lerp_(sums * sums.shape[1] / positions, 1 - 0.5 ** (images / half_life))
        f, v, ff, vv, fv = self.moments[1:] / self.moments[0]
        p = self.denoiser.preconditioning
        p.f_mean.copy_(f)
        p.v_mean.copy_(v)
        p.f_variance.copy_((ff - f.square()).clamp(min=0))
        p.v_variance.copy_((vv - v.square()).clamp(min=0))
        p.covariance.copy_(fv - f * v)


class JointStage:
    """Eq. 4 per pixel as in `VAEStage`, and Eq. 19 beside it, at the same levels and with the same noise.

    With `config.stop_gradient` Eq. 19 is per dimension, and the denoiser alone has its gradient. Without, both are
    summed over their dimensions, Eq. 19 times `config.weight`, and divided by the number of pixels and channels; the
    target df/dt is then a function of the encoder too. The other arguments are `VAEStage`'s.
    Raises ValueError for an autoencoder whose sigma depends on the image, or a prediction that needs f at two levels.
    """

    name = "joint"

    def __init__(
        self,
        vae: Autoencoder,
        denoiser: NonlinearDenoiser,
        train: ImageSet,
        held_out: ImageSet,
        device: torch.device,
        config: JointConfig | None = None,
        levels: LevelsConfig | None = None,
        perceptual: PerceptualConfig | None = None,
        features: FeatureCache | None = None,
        path: PathConfig | None = None,
    ) -> None:
        self.config = config = config or JointConfig()
        if vae.config.get("sigma_from") == "image":
            raise ValueError("joint training needs one sigma for every image: set sigma_from to 'level'")
        if denoiser.config.prediction not in PREDICTIONS:
            raise ValueError(
                f"joint training predicts {' or '.join(PREDICTIONS)}, which need f at one level, "
                f"not {denoiser.config.prediction!r}"
            )
        self.autoencoding = VAEStage(vae, train, held_out, device, levels, perceptual, features, path)
        self.train, self.held_out, self.device, self.count = train, held_out, device, len(train)
        self.opponent = self.autoencoding.opponent
        self.networks = {"vae.": 1.0, "denoiser.": config.denoiser_rate}
        dimensions, pixels = np.prod(vae.latent_shape), np.prod(vae.image_shape)
        self.share = 1.0 if config.stop_gradient else float(config.weight * dimensions / pixels)
        self.model = JointModel(vae, denoiser, config.stop_gradient).to(device, memory_format=torch.channels_last)
        self.sums = torch.zeros_like(self.model.moments)
        self._first_moments()

    def _first_moments(self) -> None:
        """Moments of the untrained path, from a few images at every knot."""
        x, knots = load_images(self.train, np.arange(min(FIRST_IMAGES, self.count)), self.device), self.sums.shape[1]
        vae = self.model.vae.eval()
        given = seen(vae, x)
        for level in torch.linspace(0, 1, knots).tolist():
            t = torch.full((len(x),), level, device=self.device)
            self.sums += moment_sums(*encode_with_velocity(vae, given, t), t, knots)
        self.model.follow(self.sums, half_life=1e-9)

    def _diffusion(self, model: JointModel, calibrate: bool) -> DiffusionStage:
        even = DiffusionConfig(levels="uniform")  # of others the model would keep a record
        return DiffusionStage(
            model.denoiser, model.vae, self.train, self.held_out, None, self.device, even, calibrate=calibrate
        )

    def finish(self, trained: JointModel) -> JointModel:
        """The trained model, the moments of its path now exact."""
        self._diffusion(trained, calibrate=True)
        return trained

    def begin(self, images: int) -> None:
        """Begins the training step after so many images."""
        self.autoencoding.begin(images)
        self.sums.zero_()
        with torch.no_grad():
            self.model.denoiser.preconditioning.log_sigma.copy_(self.model.vae.sigma_curve.mean_log_values())

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Those of stage "vae": levels (batch,), eps, and a curvature penalty's weights."""
        return self.autoencoding.draw(batch, generator)

    def losses(self, model: nn.Module, indices: np.ndarray, draws: tuple[Tensor, ...]) -> Tensor:
        """The loss of stage "vae" and the weighted one of stage "diffusion", of each image: (B,)."""
        passed: list[JointOutput] = []

        def autoencoder(x: Tensor, t: Tensor, eps: Tensor, **given: Tensor) -> VAEOutput:
            passed.append(model(x, t, eps, **given))
            return passed[-1].vae

        losses = self.autoencoding.losses(autoencoder, indices, draws)
        self.sums += moment_sums(passed[0].f, passed[0].velocity, draws[0].to(self.device), self.sums.shape[1])
        return losses + self.share * passed[0].denoising

    def end(self, reduce: Callable[[Tensor, str], Tensor]) -> None:
        """Ends a step: the running moments take in its images, over all processes."""
        self.model.follow(reduce(self.sums, "sum"), self.config.moment_images)

    def validate(self, model: JointModel, images: int, folder: Path) -> dict[str, float]:
        """The numbers and grids of both stages, the latter in folders of their names, and the path's information.

        `path_nats` is what the path says of an image at level 0, were f Gaussian and its dimensions independent; warns
        where it is next to nothing: f has collapsed, as without stop_gradient Eq. 19 would have it.
        """
        numbers = self.autoencoding.validate(model.vae, images, folder / "vae")
        diffusion = self._diffusion(model, calibrate=False)
        numbers["denoising_loss"] = diffusion.validate(model.denoiser, images, folder / "diffusion")["loss"]
        zero = torch.zeros((), device=self.device)
        parts = self.autoencoding.held_out.split(pass_size(model.vae.image_shape))
        f = torch.cat([mean_of(model.vae, seen(model.vae, part), zero) for part in parts])
        # 1/2 sum log(1 + V f / sigma^2)
        numbers["path_nats"] = float(0.5 * (f.var(0) / model.vae.sigma(zero).square()).log1p().sum())
        if numbers["path_nats"] < COLLAPSED:
            warnings.warn(
                f"after {images} images the path has collapsed: at level 0 it holds {numbers['path_nats']:.2f} nats of "
                "an image; lower joint.weight, or set joint.stop_gradient",
                RuntimeWarning,
                stacklevel=2,
            )
        return numbers


def slope(vae: Autoencoder, given: Tensor, t: Tensor) -> Tensor:
    """df/dt at levels t (B,) by central differences, with gradients, from images or a ViT's features.

    In float32, since lower precision does not resolve the difference.
    """
    centre = t.clamp(HALF_STEP, 1 - HALF_STEP)
    levels, given = torch.cat([centre - HALF_STEP, centre + HALF_STEP]), torch.cat([given, given]).float()
    with torch.autocast(given.device.type, enabled=False):
        before, after = mean_of(vae, given, levels).chunk(2)
    return (after - before) / (2 * HALF_STEP)


def moment_sums(f: Tensor, v: Tensor, t: Tensor, knots: int) -> Tensor:
    """Sums of 1, f, v, f^2, v^2, f v over images and positions, (6, knots, C), each at the two knots around its level.

    f and v (B,C,h,w), t (B,); the nearer knot weighs more, as in linear interpolation.
    """
    position = t.clamp(0, 1) * (knots - 1)
    weights = (1 - (position[:, None] - torch.arange(knots, device=t.device)).abs()).clamp(min=0)
    powers = torch.stack([torch.ones_like(f), f, v, f * f, v * v, f * v]).sum((3, 4))
    return torch.einsum("bk,pbc->pkc", weights.to(powers), powers)
