"""Hyperparameters of the baselines; what each reads, and its paper's values, are in `baselines/presets.py`."""

from dataclasses import dataclass
from typing import Literal

BaselineName = Literal[
    "ae", "l2_ae", "vae", "beta_vae", "annealed_vae", "cvae", "info_vae", "factor_vae", "beta_tcvae", "dip_vae_i",
    "dip_vae_ii", "multi_rate_vae", "hierarchical_vae", "vq_vae", "ddpm", "latent_diffusion", "diffae",
    "infodiffusion", "disco", "infogan_cr", "disdiff",
]  # fmt: skip


@dataclass
class BaselineConfig:
    """What to change in a baseline (None: as its paper has it); a key that the chosen model does not read is refused.

    Args:
        likelihood: of the decoder: "bernoulli" of pixels in [0, 1], "gaussian" with a standard deviation of one in
            [0, 1] (half the squared error), or "learned", a Gaussian with a learned standard deviation, as in Eq. 4.
        beta: weight of the KL, both summed; of "beta_tcvae" that of the total correlation.
        l2: weight of the squared norm of the code.
        alpha: of "info_vae", 1 less the weight of the KL; of "beta_tcvae" the weight of the mutual information.
        gamma: weight of the distance to the capacity ("annealed_vae"), of the total correlation ("factor_vae") or of
            the dimension-wise KL ("beta_tcvae").
        capacity: nats that the code is given in the end.
        capacity_images: images over which its capacity rises to that.
        label_width: width of the embedding of a class.
        mmd_lambda: lambda, which with alpha - 1 added weighs the MMD.
        kernel: of the MMD, "rbf" or "imq" (inverse multiquadratic), both as wide as the prior.
        discriminator_width: units of a layer of the discriminator of codes.
        discriminator_depth: its layers before the last.
        estimator: of the aggregated posterior: minibatch-weighted ("mws") or minibatch-stratified ("mss") sampling.
        lambda_od: weight of the squared covariances of the code.
        lambda_d: weight of the squared distances of its variances from 1.
        beta_min: least beta.
        beta_max: greatest beta.
        groups: of latents, at least 3, each but the first over one grid of the decoder, the finest.
        group_channels: channels of a group over a grid; the first is a vector of vae.latent_channels.
        kl_warmup_images: images over which the weight of the KL rises from 0 to 1.
        codes: vectors in the codebook of a VQ-VAE.
        commitment: weight of the distance of codes to the codebook's vectors.
        width: width of the transformer over codes, or of the denoiser of codes.
        depth: its blocks.
        unet_channels: channels of each resolution of the U-Net over pixels, multiples of 8.
        unet_layers: its residual blocks at each resolution.
        unet_attention: sides, in pixels, of its resolutions with attention.
        prediction: of the U-Net over pixels, v ("v_prediction"), whose errors stay small where little but noise is
            left, or the noise ("epsilon"), as in the papers.
        steps: steps of DDIM from an image to its noise, and of those back, in a reconstruction.
        code_mmd: InfoDiffusion's weight of the MMD of codes and prior, beside the mean squared error of the noise.
        code_kl: InfoDiffusion's weight of the KL of code and prior, likewise.
        base: for DisCo, the folder of the run in whose codes directions are sought.
        base_level: level of these codes, where the run's model has levels; 0.5 where nothing is said.
        directions: how many are sought.
        shift: standard deviation of the moves along them, in standard deviations of the codes.
        threshold: similarity from which a negative is taken for a positive.
        entropy: weight of the entropy that asks for one dimension to a direction.
        info: InfoGAN-CR's weight of the information that the code's reader has, beside the GAN's losses.
        contrast: its weight of the cross-entropy of which dimension of the code two images have in common.
        contrast_images: images from which on the generator has that term.
        gap: by how much the other dimensions of their codes, in [-1, 1], differ at least.
        gap_images: images for which they do.
        noise: channels that InfoGAN-CR's generator gets beside the code.
        r1: weight of half the squared slope of InfoGAN-CR's discriminator at real images.
        concepts: parts of DisDiff's code, each with its own gradient field.
        concept_width: dimensions of a concept.
        disentangling: weight of DisDiff's loss that changes one concept alone.
    """

    likelihood: Literal["bernoulli", "gaussian", "learned"] | None = None
    beta: float | None = None
    l2: float | None = None
    alpha: float | None = None
    gamma: float | None = None
    capacity: float | None = None
    capacity_images: int | None = None
    label_width: int | None = None
    mmd_lambda: float | None = None
    kernel: Literal["rbf", "imq"] | None = None
    discriminator_width: int | None = None
    discriminator_depth: int | None = None
    estimator: Literal["mws", "mss"] | None = None
    lambda_od: float | None = None
    lambda_d: float | None = None
    beta_min: float | None = None
    beta_max: float | None = None
    groups: int | None = None
    group_channels: int | None = None
    kl_warmup_images: int | None = None
    codes: int | None = None
    commitment: float | None = None
    width: int | None = None
    depth: int | None = None
    unet_channels: list[int] | None = None
    unet_layers: int | None = None
    unet_attention: list[int] | None = None
    prediction: Literal["epsilon", "v_prediction"] | None = None
    steps: int | None = None
    code_mmd: float | None = None
    code_kl: float | None = None
    base: str | None = None
    base_level: float | None = None
    directions: int | None = None
    shift: float | None = None
    threshold: float | None = None
    entropy: float | None = None
    info: float | None = None
    contrast: float | None = None
    contrast_images: int | None = None
    gap: float | None = None
    gap_images: int | None = None
    noise: int | None = None
    r1: float | None = None
    concepts: int | None = None
    concept_width: int | None = None
    disentangling: float | None = None
