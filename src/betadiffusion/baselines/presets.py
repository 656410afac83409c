"""What each baseline is, where it comes from and its paper's hyperparameters. The command line reads it: no torch here.

Weights are for terms that are summed over pixels and latent dimensions, as everywhere in this library.
"""

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any, get_args

from betadiffusion.models.presets import DENOISER_PRESETS
from betadiffusion.training.baseline_config import BaselineConfig, BaselineName

BACKBONE = (  # keys of section `vae` that baselines read
    "preset", "latent_channels", "channels", "layers_per_block", "attention_resolutions", "activation", "dropout",
)  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """A baseline: module and class in this package, the keys of section `baseline` that it reads, and its stages.

    `whole_batch`: its loss counts on a batch as a whole, which therefore cannot be cut in parts. `by_class`: it is
    conditioned on the class of an image. `training`: keys of a run that are not the default, nor the paper's, by
    dotted name. `fixed`: arguments that cannot be configured. `reads`: keys of section `vae` that it reads; `backbone`:
    what it has in place of that section's preset.
    """

    place: str
    source: str
    arguments: dict[str, Any] = field(default_factory=dict)
    stages: tuple[str, ...] = ("baseline",)
    whole_batch: bool = False
    by_class: bool = False
    training: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    reads: tuple[str, ...] = BACKBONE
    backbone: dict[str, Any] = field(default_factory=dict)


WHOLE_BATCH: dict[str, Any] = {  # batches as in disentanglement_lib
    "whole_batch": True, "training": {"vae_training.batch_size": 64},
}  # fmt: skip
TWO_STAGES = ("baseline", "prior")
DENOISER = {key: DENOISER_PRESETS["demo"][key] for key in ("width", "depth")}  # as ours, to compare
UNET = {  # v (Salimans and Ho 2022) where the papers have noise, which draws speckles after short training
    "unet_channels": [32, 64, 64], "unet_layers": 1, "unet_attention": [], "prediction": "v_prediction",
}  # fmt: skip
BERNOULLI = {"likelihood": "bernoulli"}
VAE = BERNOULLI | {"beta": 1.0}
PRESETS: dict[str, Preset] = {
    "ae": Preset("autoencoder:AutoEncoder", "Hinton and Salakhutdinov 2006", {"likelihood": "bernoulli"}),
    "l2_ae": Preset(
        "autoencoder:AutoEncoder",
        "Ghosh et al. 2020 (1903.12436): 1e-4 of |z|^2 / 2 beside the mean squared error, for 32x32 in colour",
        {"likelihood": "gaussian", "l2": 0.15},
    ),
    "vae": Preset("vae:VAE", "Kingma and Welling 2014 (1312.6114)", VAE),
    "beta_vae": Preset(
        "vae:VAE", "Higgins et al. 2017; beta 4 as in disentanglement_lib (Locatello et al. 2019)", VAE | {"beta": 4.0}
    ),
    "annealed_vae": Preset(
        "annealed_vae:AnnealedVAE",
        "Burgess et al. 2018 (1804.03599): gamma 1000, 25 nats over 100,000 steps of 64 images, for dSprites",
        BERNOULLI | {"gamma": 1000.0, "capacity": 25.0, "capacity_images": 6_400_000},
        # that gamma and that many images go with hundreds of thousands of steps: configs/baselines/annealed_vae.yaml
        training={"baseline.gamma": 30.0, "baseline.capacity_images": 115_000},
    ),
    "cvae": Preset(
        "cvae:CVAE",
        "Sohn et al. 2015, Eq. 4, of an image given its class",
        BERNOULLI | {"label_width": 32},
        by_class=True,
        training={"condition.kind": "labels"},
    ),
    "info_vae": Preset(
        "info_vae:InfoVAE",
        "Zhao et al. 2017 (1706.02262): alpha 1, their MMD-VAE; lambda 1000, which brings the MMD to the scale of nats",
        BERNOULLI | {"alpha": 1.0, "mmd_lambda": 1000.0, "kernel": "rbf"},
        **WHOLE_BATCH,
    ),
    "factor_vae": Preset(
        "factor_vae:FactorVAE",
        "Kim and Mnih 2018 (1802.05983): discriminator and its Adam; gamma 10, for shapes, the least that "
        "disentanglement_lib tries (Locatello et al. 2019)",
        BERNOULLI | {"gamma": 10.0, "discriminator_width": 1000, "discriminator_depth": 6},
        **WHOLE_BATCH,
    ),
    "beta_tcvae": Preset(
        "beta_tcvae:BetaTCVAE",
        "Chen et al. 2018 (1802.04942): beta 6 for dSprites, alpha = gamma = 1, minibatch-weighted sampling",
        BERNOULLI | {"alpha": 1.0, "beta": 6.0, "gamma": 1.0, "estimator": "mws"},
        **WHOLE_BATCH,
    ),
    "dip_vae_i": Preset(
        "dip_vae:DIPVAE",
        "Kumar et al. 2018 (1711.00848); lambda_od 10 and lambda_d ten times it, as in disentanglement_lib",
        BERNOULLI | {"lambda_od": 10.0, "lambda_d": 100.0},
        **WHOLE_BATCH,
        fixed={"kind": "i"},
    ),
    "dip_vae_ii": Preset(
        "dip_vae:DIPVAE",
        "Kumar et al. 2018 (1711.00848); lambda_d = lambda_od = 10, as in disentanglement_lib",
        BERNOULLI | {"lambda_od": 10.0, "lambda_d": 10.0},
        **WHOLE_BATCH,
        fixed={"kind": "ii"},
    ),
    "multi_rate_vae": Preset(
        "multi_rate_vae:MultiRateVAE",
        "Bae et al. 2023 (2212.03905): gates of Eq. 7, beta log-uniform in [0.01, 10]",
        BERNOULLI | {"beta_min": 0.01, "beta_max": 10.0},
    ),
    "hierarchical_vae": Preset(
        "hierarchical_vae:HierarchicalVAE",
        "Sonderby et al. 2016 (1602.02282) with NVAE's residual posterior (Vahdat and Kautz 2020, 2007.03898) and its "
        "warm-up over 30 % of training, here of 200,000 images",
        BERNOULLI | {"groups": 3, "group_channels": 4, "kl_warmup_images": 60_000},
    ),
    "vq_vae": Preset(
        "vq_vae:VQVAE",
        "van den Oord et al. 2017 (1711.00937), 512 codes, commitment 0.25; a GPT in place of their PixelCNN",
        {"likelihood": "learned", "codes": 512, "commitment": 0.25, "width": 128, "depth": 4},
        TWO_STAGES,
        training={  # its prior is a GPT over 64 codes, not the demo's MLP
            "vae_training.images": 100_000,
            "diffusion_training.images": 100_000,
            "diffusion_training.learning_rate": 1e-3,
        },
        backbone={"block": "resnet", "layers_per_block": 1},
    ),
    "ddpm": Preset(
        "ddpm:DDPM",
        "Ho et al. 2020 (2006.11239), their linear schedule of 1000 steps; a smaller U-Net, for v",
        UNET,
        reads=(),
    ),
    "latent_diffusion": Preset(
        "latent_diffusion:LatentDiffusion",
        "Rombach et al. 2022 (2112.10752): KL at 1e-6, both summed, and codes divided by their standard deviation",
        {"likelihood": "learned", "beta": 1e-6} | DENOISER,
        TWO_STAGES,
    ),
    "diffae": Preset(
        "diffae:DiffusionAutoencoder",
        "Preechakul et al. 2022 (2111.15640); a smaller U-Net, for v",
        UNET | {"steps": 50} | DENOISER,
        TWO_STAGES,
    ),
    "infodiffusion": Preset(
        "infodiffusion:InfoDiffusion",
        "Wang et al. 2023 (2306.08757), with MMD 0.1 and no KL as in their code; a smaller U-Net, for v",
        UNET | {"steps": 50, "code_mmd": 0.1, "code_kl": 0.0},
        **WHOLE_BATCH,
    ),
    "disco": Preset(
        "disco:DisCo",
        "Ren et al. 2022 (2102.10543) and their code: shifts of 6, hard negatives from 0.95, entropy at 1",
        {"base": "", "base_level": None, "directions": 32, "shift": 6.0, "threshold": 0.95, "entropy": 1.0},
        **WHOLE_BATCH,
    ),
    "infogan_cr": Preset(
        "infogan_cr:InfoGANCR",
        "Lin et al. 2020 (1906.06034) and their code, for dSprites: 5 channels of noise, Adam at 0.001, contrast 2 "
        "after 288,000 steps of 64 images; R1 (Mescheder et al. 2018) for their spectral norms, which learn too slowly",
        {
            "info": 0.05,
            "contrast": 2.0,
            "contrast_images": 18_432_000,
            "gap": 0.0,
            "gap_images": 0,
            "noise": 5,
            "r1": 1.0,
        },
        training={  # a GAN's optimiser; contrast from a quarter of the training on, their 3D Teapots' gap for three
            "vae_training.learning_rate": 1e-3,
            "vae_training.muon_rate": 0.0,
            "vae_training.adam_betas": [0.5, 0.99],
            "baseline.contrast_images": 50_000,
            "baseline.gap": 1.9,
            "baseline.gap_images": 150_000,
        },
        backbone={"latent_channels": 10},
    ),
    "disdiff": Preset(
        "disdiff:DisDiff",
        "Yang et al. 2023 (2301.13721) and their code: 6 concepts of 32 dimensions, the disentangling loss at 0.05; "
        "on pixels, and a smaller U-Net",
        {"base": "", "concepts": 6, "concept_width": 32, "disentangling": 0.05, "steps": 50},
        reads=tuple(key for key in BACKBONE if key != "latent_channels"),
    ),
}


def is_baseline(model: str) -> bool:
    """Whether a run's `model` is a baseline."""
    return model in get_args(BaselineName)


def baseline_arguments(model: str, config: BaselineConfig) -> dict[str, Any]:
    """Hyperparameters of a baseline: its paper's, with those that are configured in their place.

    Raises ValueError for a key that it does not read.
    """
    known = PRESETS[model].arguments
    given = {key: value for key, value in dataclasses.asdict(config).items() if value is not None}
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)
            reads = f"did you mean baseline.{near[0]}?" if near else "it has none"
            raise ValueError(f"baseline.{key} has no effect with model {model!r}: {reads}")
    return {**known, **given}
