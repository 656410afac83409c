"""`BetaDiffusionPipeline`: a VAE and a denoiser together, to generate, reconstruct, walk back and edit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from betadiffusion import samplers
from betadiffusion.clocks import Clock
from betadiffusion.gaussian import Generators, randn, split
from betadiffusion.guidance import Interval, guided
from betadiffusion.models.beta_diffusion import BetaDiffusionAutoencoder
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.models.text import TextEncoder
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.pipelines.conditions import Condition, condition_tensor
from betadiffusion.pipelines.directions import Direction, find
from betadiffusion.pipelines.interpolation import Interpolation, dimensions, slerp, with_linear_means
from betadiffusion.pipelines.walk_levels import solver_method, solver_variable, walk_levels

Code = Literal["draw", "mean"]
EVERY_LEVEL: Interval = (0.0, 1.0)
Images = Tensor | np.ndarray | Image.Image | Sequence[Image.Image]


@dataclass
class ImagesOutput(BaseOutput):
    """`images`: (B,C,H,W) float in [0, 1], or a list of PIL images."""

    images: Tensor | list[Image.Image]


class BetaDiffusionPipeline(DiffusionPipeline):
    """A multi-beta VAE, or a beta-Diffusion autoencoder, and the denoiser that walks between its levels.

    Without a denoiser it also edits and interpolates by a baseline that encodes and decodes.
    Images go in as PIL images, as uint8 (B,C,H,W), or as floats (B,C,H,W) in [0, 1], of the VAE's own size and
    channels; they come out as PIL images, or with output_type="pt" as floats (B,C,H,W) in [0, 1].
    What a denoiser was conditioned on can be asked for wherever it walks (`pipelines.conditions`), with classifier-free
    `guidance`, 1 for the condition alone, at the levels of `guidance_interval`; else it walks unconditionally.
    """

    model_cpu_offload_seq = "denoiser->vae"
    _optional_components: ClassVar[list[str]] = ["denoiser"]  # without it: reconstruct, encode and sample_prior

    def __init__(self, vae: MultiBetaVAE | BetaDiffusionAutoencoder, denoiser: NonlinearDenoiser | None = None) -> None:
        super().__init__()
        self.register_modules(vae=vae, denoiser=denoiser)
        self.set_progress_bar_config(disable=True)
        self._text_encoder: TextEncoder | None = None
        self.directions: list[Direction] = []  # those that `edit` knows by name, from `pipelines.directions.load`

    @torch.no_grad()
    def __call__(
        self,
        num_images: int = 16,
        steps: int = 20,
        method: samplers.Method | None = None,
        eta: float = 0.0,
        generator: Generators | None = None,
        output_type: str = "pil",
        condition: Condition | None = None,
        guidance: float = 1.0,
        guidance_interval: Interval = EVERY_LEVEL,
        **walking: Any,
    ) -> ImagesOutput:
        """New images: noise walked from level 1 to 0 in `steps` steps, decoded. eta > 0 adds fresh noise on the way.

        walking: further options of `walk`. Image i of a seed is the same whatever the batch; see `gaussian.split`.
        """
        generators = split(generator, num_images)
        z = self._prior(num_images, 1.0, generators)
        asked = {"condition": condition, "guidance": guidance, "guidance_interval": guidance_interval}
        walking |= {"steps": steps, "method": method, "eta": eta, **asked}
        return self._finish(z, 1.0, True, generators, output_type, walking)

    @torch.no_grad()
    def sample_prior(
        self,
        num_images: int = 16,
        level: float = 1.0,
        generator: Generators | None = None,
        output_type: str = "pil",
    ) -> ImagesOutput:
        """Images that the decoder alone makes of draws of p(z;t) at a level: one pass, as good as the prior fits."""
        z = self._prior(num_images, level, split(generator, num_images))
        return ImagesOutput(self._output(self.vae.decode(z, torch.tensor(level)), output_type))

    @torch.no_grad()
    def reconstruct(
        self, images: Images, level: float, generator: Generators | None = None, output_type: str = "pil"
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
        method: samplers.Method | None = None,
        eta: float = 0.0,
        generator: Generators | None = None,
        output_type: str = "pil",
        condition: Condition | None = None,
        guidance: float = 1.0,
        guidance_interval: Interval = EVERY_LEVEL,
        end: float = 0.0,
        **walking: Any,
    ) -> ImagesOutput:
        """Images encoded at a level by a draw (`noised`), walked down to level `end` and decoded there.

        Heun takes two network evaluations a step: steps=10 costs 20. walking: further options of `walk`.
        """
        generators = self._generators(images, generator)
        z = self.noised(images, level, generators)
        asked = {"condition": condition, "guidance": guidance, "guidance_interval": guidance_interval}
        walking |= {"end": end, "steps": steps, "method": method, "eta": eta, **asked}
        return self._finish(z, level, True, generators, output_type, walking)

    @torch.no_grad()
    def edit(
        self,
        images: Images,
        direction: Tensor | str,
        strength: float,
        level: float,
        *,
        denoise: bool = True,
        code: Code = "draw",
        generator: Generators | None = None,
        output_type: str = "pil",
        **walking: Any,
    ) -> ImagesOutput:
        """Images encoded at a level, moved by strength * direction, walked back to level 0 and decoded (Algorithm 4).

        direction: shaped like the latent, (C,h,w) or flat, or the name of one of `directions`, whose unit is a standard
        deviation of the codes. code: "draw", as `noised` and so `denoise` draw it, or the "mean" that Algorithm 4
        prints, which keeps more of the images and is walked to blurred ones. Without `denoise` the VAE alone decodes,
        at the level. walking: options of `walk`. With strength 0 this is `denoise`, or what the VAE alone makes of
        such codes. Raises ValueError for a direction of another shape or an unknown name, and for options of the walk
        without `denoise`.
        """
        generators = self._generators(images, generator)
        along = self._direction(direction, level)
        z = self._code(images, level, code, generators)
        return self._finish(z + strength * along, level, denoise, generators, output_type, walking)

    @torch.no_grad()
    def interpolate(
        self,
        a: Images,
        b: Images,
        weights: Sequence[float],
        level: float,
        dims: Sequence[int] | Tensor | None = None,
        *,
        interpolation: Interpolation = "slerp",
        denoise: bool = True,
        code: Code = "draw",
        generator: Generators | None = None,
        output_type: str = "pil",
        **walking: Any,
    ) -> ImagesOutput:
        """Images between a and b, B each: (B * len(weights)), all weights of the first pair first (Algorithm 5).

        weights: 0 is a, 1 is b. dims: the dimensions to interpolate, None for all, as indices into the flattened latent
        or as a mask shaped like it; the others stay a's. interpolation: "slerp" of the codes, as in Algorithm 5, or
        "linear": means on a line, noise on a circle. denoise, code and walking are those of `edit`. Raises ValueError
        for numbers of images that differ, weights outside [0, 1], and dims that the latent has not.
        """
        if not weights or not all(0 <= weight <= 1 for weight in weights):
            raise ValueError(f"weights must be numbers from 0 to 1, not {list(weights)}")
        each, other = self._generators(a, generator), self._generators(b, None)
        if len(each) != len(other):
            raise ValueError(f"as many images are needed on both sides, not {len(each)} and {len(other)}")
        codes = [self._code(images, level, code, each).flatten(1) for images in (a, b)]
        mask = dimensions(dims, self.vae.latent_shape).to(self.device)
        if interpolation == "slerp":
            parts = [slerp(*(z[:, mask] for z in codes), weight) for weight in weights]
        elif interpolation == "linear":
            means = [self.encode(images, level).flatten(1) for images in (a, b)]
            ends = [x[:, mask] for x in codes + means]
            parts = [with_linear_means(*ends, weight) for weight in weights]
        else:
            raise ValueError(f"interpolation is 'slerp' or 'linear', not '{interpolation}'")
        z = codes[0][:, None].repeat(1, len(weights), 1)
        z[..., mask] = torch.stack(parts, 1)
        z = z.reshape(-1, *self.vae.latent_shape)
        fresh = [one for pair in each for one in split(pair, len(weights))]
        return self._finish(z, level, denoise, fresh, output_type, walking)

    @torch.no_grad()
    def encode(self, images: Images, level: float, generator: Generators | None = None) -> Tensor:
        """Latents of images at a level in [0, 1]: the mean, or with `generator` a draw of q(z|x;t)."""
        if not 0 <= level <= 1:
            raise ValueError(f"a level lies in [0, 1], not {level}")
        x = self._input(images)
        t = torch.tensor(level)
        if generator is None:
            return self.vae.encode_mean(x, t)
        return self.vae.encode_sample(x, t, split(generator, len(x)))

    @torch.no_grad()
    def posterior(self, images: Images, level: float) -> tuple[Tensor, Tensor]:
        """Mean and sigma of q(z|x;t) of images at a level in [0, 1], both shaped like the latent."""
        return self.vae.posterior(self._input(images), torch.tensor(level))

    @torch.no_grad()
    def noised(self, images: Images, level: float, generator: Generators) -> Tensor:
        """f(x,t) + sigma(t) eps of images: what the diffusion walks.

        It is a draw of q(z|x;t), but where the posterior has a sigma of each image (sigma_from "image").
        """
        if self.vae.config.get("sigma_from", "level") != "image":
            return self.encode(images, level, generator)
        mean = self.encode(images, level)
        return mean + self.vae.sigma(torch.tensor(level)) * randn(mean.shape, mean, split(generator, len(mean)))

    @torch.no_grad()
    def walk(
        self,
        z: Tensor,
        level: float,
        *,
        end: float = 0.0,
        steps: int = 20,
        method: samplers.Method | None = None,
        variable: samplers.Variable | None = None,
        eta: float = 0.0,
        churn: float = 0.0,
        clock: Clock = "fitted",
        generator: Generators | None = None,
        callback: samplers.Callback | None = None,
        condition: Condition | None = None,
        guidance: float = 1.0,
        guidance_interval: Interval = EVERY_LEVEL,
    ) -> Tensor:
        """Latents z at `level` walked to level `end` < level; unchanged where the two are equal.

        method, variable, eta and churn are those of `samplers.sample`, where None is what suits the denoiser
        (`solver_method`, `solver_variable`). clock, of `clocks`, spaces the levels. A bar counts the steps where
        `set_progress_bar_config(disable=False)` asks for it.
        """
        if bad := [x for x in (level, end) if not 0 <= x <= 1]:
            raise ValueError(f"a level lies in [0, 1], not {bad[0]}")
        if level <= end:
            return z
        if self.denoiser is None:
            raise ValueError("there is no denoiser to walk with: train stage 'diffusion' first")
        if (eta or churn) and not self.denoiser.predicts_noise:
            raise ValueError(
                "this denoiser predicts no noise (prediction 'flow'), so none can be added: use eta 0 and churn 0"
            )
        method = method or solver_method(self.denoiser)
        variable = variable or solver_variable(self.denoiser, method)
        predict = self.predictor(len(z), condition, guidance, guidance_interval)
        levels = walk_levels(self.denoiser, self.vae.schedule, clock, steps, level, end)
        with self.progress_bar(total=steps) as bar:

            def stepped(i: int, z: Tensor, level: Tensor) -> None:
                bar.update()
                if callback is not None:
                    callback(i, z, level)

            return samplers.sample(
                predict, z, levels, self.denoiser.sigma, method=method, variable=variable,
                moments=self.denoiser.moments(), eta=eta, churn=churn,
                generator=split(generator, len(z)) if eta or churn else None, callback=stepped,
            )  # fmt: skip

    def predictor(
        self,
        count: int,
        condition: Condition | None = None,
        guidance: float = 1.0,
        guidance_interval: Interval = EVERY_LEVEL,
    ) -> samplers.Predict:
        """What samplers call, for `count` latents: the denoiser, on a condition and guided where that is asked for.

        Raises ValueError for a condition that this denoiser cannot have, and for guidance without one.
        """
        if guidance == 1 and tuple(guidance_interval) != EVERY_LEVEL:
            raise ValueError("a guidance interval has no effect with guidance 1")
        if condition is None:
            if guidance != 1:
                raise ValueError("guidance has no effect without a condition")
            return self.denoiser.predict
        if self.denoiser.condition_spec is None:
            raise ValueError("this run was trained without conditions (condition.kind): it cannot be asked for one")
        spec = self.denoiser.condition_spec
        wanted = condition_tensor(spec, condition, count, self.encode_text).to(self.device)
        null = spec.null(count).to(wanted)
        return guided(self.denoiser.predict, wanted, null, guidance, guidance_interval)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Codes (B,1+tokens,width) of texts, by the text encoder that the denoiser was trained with."""
        if self._text_encoder is None:
            spec = self.denoiser.condition_spec
            encoder = TextEncoder(spec.encoder, spec.tokens).to(self.device)
            if encoder.width != spec.width:
                raise ValueError(
                    f"the text encoder {spec.encoder} has a width of {encoder.width}, not the {spec.width} of training"
                )
            self._text_encoder = encoder
        return self._text_encoder(texts)

    def _generators(self, images: Images, generator: Generators | None) -> Sequence[torch.Generator]:
        """One for each image, so that an image's noise is its own in encoding and walk; by default of seed 0."""
        count = 1 if isinstance(images, Image.Image) else len(images)
        return split(generator or torch.Generator(self.device).manual_seed(0), count)

    def _prior(self, count: int, level: float, generators: Generators) -> Tensor:
        """Draws of p(z;t)."""
        like = torch.empty(0, device=self.device)
        return self.vae.prior_scale(torch.tensor(level)) * randn((count, *self.vae.latent_shape), like, generators)

    def _code(self, images: Images, level: float, code: Code, generator: Generators) -> Tensor:
        if code not in ("draw", "mean"):
            raise ValueError(f"code is 'draw' or 'mean', not '{code}'")
        return self.noised(images, level, generator) if code == "draw" else self.encode(images, level)

    def _direction(self, direction: Tensor | str, level: float) -> Tensor:
        """A direction as (C,h,w) on the pipeline's device."""
        along = find(self.directions, direction, level).vector if isinstance(direction, str) else direction
        shape = self.vae.latent_shape
        if tuple(along.shape) not in (shape, (math.prod(shape),)):
            raise ValueError(f"a direction must have the latent's shape {shape}, not {tuple(along.shape)}")
        return along.reshape(shape).to(self.device)

    def _finish(
        self,
        z: Tensor,
        level: float,
        denoise: bool,
        generator: Generators,
        output_type: str,
        walking: dict[str, Any],
    ) -> ImagesOutput:
        """Latents at a level as images: walked back to level 0 and decoded there, or decoded at once."""
        if denoise:
            z, level = self.walk(z, level, generator=generator, **walking), min(level, walking.get("end", 0.0))
        elif walking:
            raise ValueError(f"{', '.join(walking)} have no effect without denoise")
        return ImagesOutput(self._output(self.vae.decode(z, torch.tensor(level)), output_type))

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
