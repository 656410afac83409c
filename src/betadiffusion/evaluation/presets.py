"""The protocols of the paper's tables, and the rows that were published. The command line reads it: no torch here."""

from typing import Any

# What a protocol fixes, by option of `betadiffusion evaluate`; an option given by the user wins.
PRESETS: dict[str, dict[str, Any]] = {
    # sec. 6.1.1: TAD over CelebA's 40 attributes, and FID
    "paper-table1": {
        "metrics": ("tad", "frechet"), "chosen_metrics": (), "levels": 50, "features": "inception", "samples": 10_000,
    },
    # sec. 6.1.2 and C.1.2: MIG and DCI with boosted trees, the best of 500 levels; erratum 5: a fixed level beside it
    "paper-table2": {"metrics": ("mig",), "chosen_metrics": ("dci_gbt",), "levels": 500},
    # sec. 6.2: FID, precision and recall of unconditional samples
    "paper-table3": {
        "metrics": ("frechet", "precision_recall"), "chosen_metrics": (), "levels": 2, "features": "inception",
        "samples": 50_000,
    },
}  # fmt: skip

# Columns, then rows as printed in the paper: mean and, where there are any, deviations over its runs.
PUBLISHED: dict[str, tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]] = {
    "paper-table1": (
        ("CelebA, as published", "TAD", "FID"),
        (
            ("beta-VAE", "0.088 ± 0.043", "99.8 ± 2.4"),
            ("InfoVAE", "0.000 ± 0.000", "77.8 ± 1.6"),
            ("DiffAE", "0.155 ± 0.010", "22.7 ± 2.1"),
            ("InfoDiffusion", "0.299 ± 0.006", "23.6 ± 1.3"),
            ("DisDiff", "0.305 ± 0.010", "18.3 ± 2.1"),
            ("Denoising Multi-beta VAE", "0.378 ± 0.017", "17.9 ± 1.9"),
        ),
    ),
    "paper-table2": (
        ("as published", "Cars3D MIG", "DCI", "Shapes3D MIG", "DCI", "MPI3D MIG", "DCI"),
        (
            ("FactorVAE", "0.128 ± 0.036", "0.160 ± 0.020", "0.411 ± 0.163", "0.611 ± 0.127", "0.098 ± 0.027",
             "0.246 ± 0.066"),
            ("beta-TCVAE", "0.080 ± 0.024", "0.140 ± 0.020", "0.406 ± 0.190", "0.613 ± 0.151", "0.108 ± 0.053",
             "0.239 ± 0.062"),
            ("InfoGAN-CR", "0.011 ± 0.009", "0.020 ± 0.011", "0.297 ± 0.124", "0.478 ± 0.055", "0.161 ± 0.077",
             "0.242 ± 0.076"),
            ("Denoising Multi-beta VAE (best of 500 levels)", "0.117 ± 0.009", "0.157 ± 0.010", "0.422 ± 0.090",
             "0.621 ± 0.090", "0.147 ± 0.035", "0.253 ± 0.043"),
        ),
    ),
    "paper-table3": (
        ("256x256, as published", "FID", "precision", "recall"),
        (
            ("Denoising Multi-beta VAE, CelebA-HQ", "6.41", "0.71", "0.48"),
            ("Denoising Multi-beta VAE, FFHQ", "5.45", "0.72", "0.48"),
            ("Denoising Multi-beta VAE, LSUN-Bedrooms", "3.2", "0.65", "0.48"),
            ("UDM, CelebA-HQ", "7.16", "–", "–"),
            ("ProjectedGAN, FFHQ", "3.08", "0.65", "0.46"),
            ("ADM, LSUN-Bedrooms", "1.90", "0.66", "0.51"),
        ),
    ),
}  # fmt: skip

# What `betadiffusion compare --preset` trains, by the row's name, and what it measures; an option given by the user
# wins. stages: of ours; set: further keys; base: for directions found on the frozen model of another row, its name.
COMPARED: dict[str, dict[str, dict[str, Any]]] = {
    "paper-table1": {
        "beta_vae": {}, "info_vae": {}, "diffae": {}, "infodiffusion": {},
        "ddpm": {}, "disdiff": {"base": "ddpm"}, "multi_beta_vae": {},
    },
    "paper-table2": {
        "beta_vae": {}, "factor_vae": {}, "beta_tcvae": {}, "infogan_cr": {},
        "multi_beta_vae": {"stages": ["vae"], "set": {"vae.sigma_from": "image"}},
        "multi_beta_vae with one sigma": {
            "model": "multi_beta_vae", "stages": ["vae"], "set": {"vae.sigma_from": "level"},
        },
        "multi_beta_vae with high levels first": {
            "model": "multi_beta_vae", "stages": ["vae"],
            "set": {
                "vae.sigma_from": "image", "levels.start_power": 0.25, "levels.power": 4.0, "levels.free_nats": 1.0,
            },
        },
    },
    "paper-table3": {
        "vq_vae": {}, "ddpm": {}, "latent_diffusion": {}, "multi_beta_vae": {},
    },
    "paper-table7": {
        "vae": {}, "disco on vae": {"model": "disco", "base": "vae"},
        "multi_beta_vae": {"stages": ["vae"]},
        "disco on multi_beta_vae": {"model": "disco", "base": "multi_beta_vae"},
    },
}  # fmt: skip
COMPARE_PRESETS: dict[str, dict[str, Any]] = {
    "paper-table1": {"metrics": ("tad", "frechet"), "chosen_metrics": (), "levels": 50},
    "paper-table2": {"metrics": ("mig", "factor_vae"), "chosen_metrics": ("dci_gbt",), "levels": 50},
    "paper-table3": {"metrics": ("frechet", "precision_recall"), "chosen_metrics": (), "levels": 2},
    "paper-table7": {"metrics": ("mig",), "chosen_metrics": ("dci_gbt",), "levels": 50},
}
