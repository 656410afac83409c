"""Kills a run 20 times with SIGKILL at random moments, in both stages, and compares what it ends with.

    python benchmarks/kill_resume.py [--kills 20] [--seed 0]

The run is small (16x16 rendered images) so that it can die often; what it writes is what a large one writes. Ends with
exit code 1 if any weight, averaged weight, moment of the optimiser or number differs from the run that was never
killed. About 6 minutes on 2 CPU cores.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.numpy import load_file

SETTINGS = {
    "data.size": 16, "data.limit": 600, "data.held_out": 100, "vae.channels": "[16,32]", "vae.embedding_dim": 32,
    "denoiser.width": 64, "denoiser.depth": 2, "stages": "[vae,diffusion]", "cache.tolerance": 9.0,
    "vae_training.images": 60_000, "vae_training.batch_size": 64, "vae_training.validate_images": 15_000,
    "vae_training.checkpoint_images": 2_000, "diffusion_training.images": 200_000,
    "diffusion_training.batch_size": 64, "diffusion_training.validate_images": 50_000,
    "diffusion_training.checkpoint_images": 4_000,
}  # fmt: skip


def start(out: Path) -> subprocess.Popen[bytes]:
    """The run, in a process of its own."""
    settings = [f"--{key}={value}" for key, value in SETTINGS.items()]
    command = [sys.executable, "-m", "betadiffusion", "train", f"--out={out}", *settings]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def images_seen(out: Path) -> dict[str, int]:
    """Images of the newest checkpoint of each stage."""
    seen = {}
    for stage in ("vae", "diffusion"):
        found = sorted((out / stage / "checkpoints").glob("[0-9]*"))
        seen[stage] = int(found[-1].name) if found else 0
    return seen


def kill_until_done(out: Path, kills: int, seconds: float, seed: int) -> list[dict[str, int]]:
    """Starts and kills the run `kills` times at moments spread over its length; returns where each kill found it."""
    moment, found = random.Random(seed), []
    while len(found) < kills:
        before = images_seen(out)
        process = start(out)
        while images_seen(out) == before and process.poll() is None and moment.random() < 0.98:
            time.sleep(0.2)  # most kills after the run has gone on; some while it starts or loads
        try:
            process.wait(timeout=moment.uniform(0, 2 * seconds / kills))
            raise SystemExit(f"the run ended after {len(found)} kills: lower --kills, or train for longer")
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        found.append(images_seen(out))
        print(f"kill {len(found)}: {found[-1]}", flush=True)
    finish(out)
    return found


def finish(out: Path) -> None:
    """Runs to the end; what it says goes to stderr where it fails."""
    process = start(out)
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(said.decode()[-2000:])


def differences(one: Path, other: Path) -> list[str]:
    """Names of tensors and numbers that are not the same bits in two runs."""
    wrong = []
    for stage in ("vae", "diffusion"):
        last = sorted((one / stage / "checkpoints").iterdir())[-1].name
        for kind in ("model", "ema", "optimizer"):
            file = Path(stage, "checkpoints", last, f"{kind}.safetensors")
            a, b = load_file(one / file), load_file(other / file)
            wrong += [f"{file}: {key}" for key in a.keys() | b.keys() if a[key].tobytes() != b[key].tobytes()]
        history = Path(stage, "history.json")
        if json.loads((one / history).read_text()) != json.loads((other / history).read_text()):
            wrong.append(str(history))
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        finish(whole)
        summaries = [json.loads((whole / stage / "summary.json").read_text()) for stage in ("vae", "diffusion")]
        seconds = sum(summary["seconds"] for summary in summaries)
        found = kill_until_done(killed, arguments.kills, seconds * 0.8, arguments.seed)
        wrong = differences(whole, killed)
        in_second = sum(seen["vae"] >= SETTINGS["vae_training.images"] for seen in found)
        print(f"{len(found)} kills, {in_second} of them in stage diffusion; {len(wrong)} differences: {wrong[:5]}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
