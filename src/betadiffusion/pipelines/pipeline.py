"""`BetaDiffusionPipeline`: a VAE and a denoiser together, to generate, reconstruct, walk back and edit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from betadiffusion import levels as spacings
from betadiffusion import samplers
from betadiffusion.gaussian import randn
from betadiffusion.models.beta_diffusion import BetaDiffusionAutoencoder
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.models.vae import MultiBetaVAE

Images = Tensor | np.ndarray | Image.Image | Sequence[Image.Image]


@dataclass
class ImagesOutput(BaseOutput):
    """`images`: (B,C,H,W) float in [0, 1], or a list of PIL images."""

    images: Tensor | list[Image.Image]


class BetaDiffusionPipeline(DiffusionPipeline):
    """A multi-beta VAE, or a beta-Diffusion autoencoder, and the denoiser that walks between its levels.

    Images go in as PIL images, as uint8 (B,C,H,W), or as floats (B,C,H,W) in [0, 1], of the VAE's own size and
    channels; they come out as PIL images, or with output_type="pt" as floats (B,C,H,W) in [0, 1].
    """

    model_cpu_offload_seq = "denoiser->vae"
    _optional_components: ClassVar[list[str]] = ["denoiser"]  # without it: reconstruct, encode and sample_prior

    def __init__(self, vae: MultiBetaVAE | BetaDiffusionAutoencoder, denoiser: NonlinearDenoiser | None = None) -> None:
        super().__init__()
        self.register_modules(vae=vae, denoiser=denoiser)
        self.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def __call__(
        self,
        num_images: int = 16,
        steps: int = 20,
        method: samplers.Method = "heun",
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> ImagesOutput:
        """New images: noise walked from level 1 to 0 in `steps` steps, decoded. eta > 0 adds fresh noise on the way."""
        like = torch.empty(0, device=self.device)
        z = randn((num_images, *self.vae.latent_shape), like, generator)
        z = self.walk(z, 1.0, steps=steps, method=method, eta=eta, generator=generator)
        return ImagesOutput(self._output(self.vae.decode(z, z.new_zeros(())), output_type))

    @torch.no_grad()
    def sample_prior(
        self,
        num_images: int = 16,
        level: float = 1.0,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> ImagesOutput:
        """Images that the decoder alone makes of draws of N(0, I) at a level: one pass, as good as the prior fits."""
        z = randn((num_images, *self.vae.latent_shape), torch.empty(0, device=self.device), generator)
        return ImagesOutput(self._output(self.vae.decode(z, torch.tensor(level)), output_type))

    @torch.no_grad()
    def reconstruct(
        self, images: Images, level: float, generator: torch.Generator | None = None, output_type: str = "pil"
    ) -> ImagesOutput:
        """Images encoded and decoded at one level: by the mean, or with `generator` by a draw of q(z|x;t)."""
        z = self.encode(images, level, generator)
        return ImagesOutput(self._output(self.vae.decode(z, torch.tensor(level)), output_type))

    @torch.no_grad()
    def denoise(
        self,
        images: Images,
        level: float,
        steps: int = 20,
        method: samplers.Method = "heun",
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> ImagesOutput:
        """Images encoded at a level by a draw from q(z|x;t), walked back to level 0 and decoded there."""
        generator = generator or torch.Generator(self.device).manual_seed(0)
        z = self.walk(
            self.encode(images, level, generator), level, steps=steps, method=method, eta=eta, generator=generator
        )
        return ImagesOutput(self._output(self.vae.decode(z, z.new_zeros(())), output_type))

    @torch.no_grad()
    def encode(self, images: Images, level: float, generator: torch.Generator | None = None) -> Tensor:
        """Latents of images at a level in [0, 1]: the mean, or with `generator` a draw of q(z|x;t)."""
        if not 0 <= level <= 1:
            raise ValueError(f"a level lies in [0, 1], not {level}")
        x = self._input(images)
        t = torch.tensor(level)
        return self.vae.encode_mean(x, t) if generator is None else self.vae.encode_sample(x, t, generator)

    @torch.no_grad()
    def walk(
        self,
        z: Tensor,
        level: float,
        *,
        end: float = 0.0,
        steps: int = 20,
        method: samplers.Method = "heun",
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        callback: samplers.Callback | None = None,
    ) -> Tensor:
        """Latents z at `level` walked to level `end` < level; unchanged where the two are equal."""
        if level <= end:
            return z
        if self.denoiser is None:
            raise ValueError("there is no denoiser to walk with: train stage 'diffusion' first")
        return samplers.sample(
            self.denoiser.predict, z, spacings.uniform(steps, level, end), self.denoiser.sigma,
            method=method, eta=eta, generator=generator, callback=callback,
        )  # fmt: skip

    def _input(self, images: Images) -> Tensor:
        """Images of any accepted kind to floats (B,C,H,W) in [-1, 1] on the pipeline's device."""
        shape = self.vae.image_shape
        if isinstance(images, Image.Image):
            images = [images]
        if not isinstance(images, (Tensor, np.ndarray)):
            mode = "L" if shape[0] == 1 else "RGB"
            arrays = [np.asarray(image.convert(mode)) for image in images]
            images = np.stack([a[None] if a.ndim == 2 else a.transpose(2, 0, 1) for a in arrays])
        x = torch.as_tensor(images)
        if x.ndim != 4 or tuple(x.shape[1:]) != shape:
            raise ValueError(f"images of shape (B, {', '.join(map(str, shape))}) are needed, not {tuple(x.shape)}")
        x = x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x.float() * 2 - 1
        return x.to(self.device)

    @staticmethod
    def _output(x: Tensor, output_type: str) -> Tensor | list[Image.Image]:
        x = (x.float().cpu() / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return x
        if output_type != "pil":
            raise ValueError(f"output_type is 'pil' or 'pt', not '{output_type}'")
        arrays = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).squeeze(3).numpy()
        return [Image.fromarray(array) for array in arrays]
