"""Stage 1 of beta-Diffusion: `betadiffusion train` under the name, options and environment of its first command lines.

    python src/train_beta_diffusion.py --config configs/stage1/training/BetaDiffusion_DINOv2-B.yaml --data-path DIR

Beside the options of `betadiffusion train` (see --help): --wandb also logs to Weights & Biases, offline where there is
no key or network. From the environment: ENTITY and PROJECT for it, EXPERIMENT_NAME for its run and for --out
runs/EXPERIMENT_NAME. Launched by torchrun, by torch.distributed.launch, under debugpy, or plainly.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence

from betadiffusion.cli.main import main

WANDB = {"ENTITY": "WANDB_ENTITY", "PROJECT": "WANDB_PROJECT", "EXPERIMENT_NAME": "WANDB_NAME"}


def command_line(argv: Sequence[str], environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The arguments of `betadiffusion train`, and what to add to the environment."""
    text = [argument for argument in argv if argument != "--wandb"]
    # torch.distributed.launch hands over the rank, which is in the environment too
    kept = [a for before, a in zip(["", *text], text, strict=False) if not _rank(a) and not _rank(before, alone=True)]
    if "--wandb" in argv:
        kept.append("--trackers+=wandb")
    name = environment.get("EXPERIMENT_NAME")
    if name and not any(re.match(r"--out(=|$)", argument) for argument in kept):
        kept.append(f"--out=runs/{name}")
    return kept, {to: environment[ours] for ours, to in WANDB.items() if environment.get(ours)}


def _rank(argument: str, alone: bool = False) -> bool:
    return re.fullmatch(r"--local[-_]rank" if alone else r"--local[-_]rank(=\d+)?", argument) is not None


if __name__ == "__main__":
    arguments, variables = command_line(sys.argv[1:], os.environ)
    os.environ.update(variables)
    sys.exit(main(["train", *arguments]))
