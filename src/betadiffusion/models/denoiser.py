"""The denoiser between levels: two predictions, noise and change of encoding, from one network (paper sec. 4.2).

What the second prediction is, is a choice (docs/formalism.md, "Predictions of the denoiser"):

    "velocity"   delta = (s - t) E[df/dt | z_t]                          a step of any size trains (erratum 4)
    "any_step"   delta = E[f_s - f_t | z_t]                              the network sees s
    "flow_map"   delta = z_s - z_t - (sigma_s - sigma_t) eps             z_s where the ODE lands; the network sees s
    "flow"       delta = (s - t) E[df/dt + d(sigma)/dt eps | z_t]        of z itself; eps = 0
    "paper"      delta = (t - s) / tau E[f_{t - tau} - f_t | z_t]        Eq. 19 with tau = 1/1000
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from betadiffusion.nn.condition import ConditionEmbedding, ConditionSpec, Embedded
from betadiffusion.nn.dit import LevelDiT
from betadiffusion.nn.mlp import LevelMLP
from betadiffusion.nn.preconditioning import PREDICTIONS, STEPS, Preconditioning
from betadiffusion.nn.unet import LevelUNet
from betadiffusion.samplers import Moments


class DenoiserOutput(NamedTuple):
    """eps = E[eps | z_t] and the change delta from t to s, shaped like z_t."""

    eps: Tensor
    delta: Tensor


class NonlinearDenoiser(ModelMixin, ConfigMixin):
    """(z_t, t, s) -> (eps, delta); `prediction` says what delta is, see above.

    latent_shape is (C,H,W); `architecture` "mlp" for (C,1,1), "unet", or "dit" for a square grid of tokens, with heads
    of `head_dim`, by default 64; `knots` and `sigma_knots` are the sizes of the
    tables of the Gaussian part (`nn.preconditioning`), which `calibrate` fills from data before training; `condition`
    the fields of a `ConditionSpec`, None for a denoiser that cannot be asked for anything; `fitted_clock` the readings
    of the clock "fitted" at even levels, None where they have not been measured yet (`pipelines.walk_levels`).
    Raises ValueError for an architecture or a prediction that does not exist or that does not fit the latent, and for
    a condition that does not exist or that the architecture cannot take.
    """

    @register_to_config
    def __init__(
        self,
        latent_shape: Sequence[int] = (32, 1, 1),
        architecture: str = "mlp",
        width: int = 512,
        depth: int = 4,
        channels: Sequence[int] = (64, 128, 256, 256),
        layers_per_block: int = 2,
        attention_resolutions: Sequence[int] = (16, 8, 4),
        head_dim: int | None = None,
        activation: str = "silu",
        dropout: float = 0.0,
        knots: int = 33,
        sigma_knots: int = 65,
        prediction: str = "velocity",
        condition: dict[str, Any] | None = None,
        fitted_clock: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        spec = None if condition is None else ConditionSpec(**condition)
        if prediction not in PREDICTIONS:
            raise ValueError(f"unknown prediction '{prediction}'; choose {', '.join(PREDICTIONS)}")
        made = {
            "outputs": 1 if prediction == "flow" else 2, "steps": prediction in STEPS,
            "condition_by": None if spec is None else spec.by,
        }  # fmt: skip
        latent_channels, height, width_ = latent_shape
        if architecture == "mlp":
            if (height, width_) != (1, 1):
                raise ValueError(f"architecture 'mlp' needs vector latents, not {tuple(latent_shape)}; use 'unet'")
            self.network: nn.Module = LevelMLP(
                latent_dim=latent_channels, width=width, depth=depth, dropout=dropout, **made
            )
        elif architecture == "unet":
            self.network = LevelUNet(
                sample_size=height,
                latent_channels=latent_channels,
                channels=channels,
                layers_per_block=layers_per_block,
                attention_resolutions=attention_resolutions,
                head_dim=head_dim,
                activation=activation,
                dropout=dropout,
                **made,
            )
        elif architecture == "dit":
            if height != width_:
                raise ValueError(f"architecture 'dit' needs a square grid, not {tuple(latent_shape)}")
            self.network = LevelDiT(
                latent_channels=latent_channels, width=width, depth=depth, head_dim=head_dim or 64, dropout=dropout,
                **made,
            )  # fmt: skip
        else:
            raise ValueError(f"unknown architecture '{architecture}'; choose mlp, unet or dit")
        self.condition_embedding = None if spec is None else ConditionEmbedding(spec, self.network.condition_width)
        self.preconditioning = Preconditioning(latent_channels, knots, sigma_knots, prediction)

    @property
    def predicts_noise(self) -> bool:
        """Whether eps is E[eps | z_t]: samplers that add fresh noise need it."""
        return self.config.prediction != "flow"

    @property
    def condition_spec(self) -> ConditionSpec | None:
        """What this denoiser can be asked for."""
        return None if self.condition_embedding is None else self.condition_embedding.spec

    def forward(self, z: Tensor, t: Tensor, s: Tensor, condition: Tensor | None = None) -> DenoiserOutput:
        """z (B,C,H,W) at level t, to go to level s; t and s (B,) or () in [0, 1]; float32.

        condition: (B, ...) as in `nn.condition`, None for the one that says nothing.
        """
        t, s = (level.to(device=z.device, dtype=torch.float32).expand(len(z)) for level in (t, s))
        given = self.preconditioning(z, t, s)
        step = t - s if self.config.prediction in STEPS else None
        *eps, velocity = self.network(given.z, t, step, self._embedded(condition, z)).float().split(z.shape[1], dim=1)
        velocity = given.velocity + given.velocity_scale * velocity
        noise = given.eps + given.eps_scale * eps[0] if eps else given.eps
        if self.config.prediction == "flow_map":  # where z lands is the network's own, whatever eps is
            velocity = velocity - self.preconditioning.sigma_rise(t, s)[:, None, None, None] * noise
        return DenoiserOutput(noise, (s - t)[:, None, None, None] * velocity)

    def _embedded(self, condition: Tensor | None, z: Tensor) -> Embedded | None:
        if self.condition_embedding is None:
            if condition is not None:
                raise ValueError("this denoiser was trained without conditions: it cannot be asked for one")
            return None
        if condition is None:
            condition = self.condition_embedding.spec.null(len(z))
        return self.condition_embedding(condition.to(z.device))

    @torch.no_grad()
    def predict(self, z: Tensor, t: Tensor, s: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`forward` without gradients, in the form that the samplers call."""
        return self(z, t, s, condition)

    def sigma(self, t: Tensor) -> Tensor:
        """sigma(t) of the VAE whose levels this network walks, shaped like t."""
        return self.preconditioning.sigma(t)

    def moments(self) -> Callable[[Tensor], Moments]:
        """Moments of z_t by channel, (C,1,1) each, of the data it was calibrated with, as a function of t ()."""
        return self.preconditioning.moments()
