"""One training loop for every stage: accelerate for devices and processes, images seen as the clock.

Everything random in a step is drawn from (seed, stage, images seen) for the whole batch, then cut to this process's
share: a run that was killed and resumed, split over processes or over accumulated parts is the same run. Dropout alone
is drawn by each process for each part, so that it is the same when resumed, and another when split.
"""

import copy
import math
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from betadiffusion.training import checkpoint as checkpoints
from betadiffusion.training import muon
from betadiffusion.training.adversary import Opponent, opponent_optimizer
from betadiffusion.training.config import OptimisationConfig
from betadiffusion.training.errors import Interrupted, TrainingError
from betadiffusion.training.files import write_json

LOG_STEPS = 50
ENCODER = "encoder.", "encoder_gate."  # what `encoder_rate` is the rate of


class Stage(Protocol):
    """What differs between stages: the model, its loss, its validation.

    A stage may have `begin(images)`, called before each step with the number of images seen; `end(reduce)`, called
    before each update with what reduces a tensor over processes, reduce(tensor, "sum"); an `opponent`: a network that
    is trained against the model, on the same images (`Opponent`); and `networks`: prefixes of the names of parameters
    that together hold them all, each with its rate as a multiple of the configured one. Gradients are clipped network
    by network.
    """

    name: str
    model: nn.Module
    count: int  # images to train on

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Everything random in a step on `batch` images: tensors (batch, ...), on the CPU."""
        ...

    def losses(self, model: nn.Module, indices: np.ndarray, draws: tuple[Tensor, ...]) -> Tensor:
        """Loss of each image (B,); `model` is `self.model`, wrapped for several processes where there are any."""
        ...

    def validate(self, model: nn.Module, images: int, folder: Path) -> dict[str, float]:
        """Numbers on held-out images under the averaged weights, and a picture grid in `folder`."""
        ...


class Trainer:
    """Trains one stage, safely: `resume` goes to where an earlier run stopped, `fit` returns the averaged model.

    folder holds checkpoints/, grids/, history.json and summary.json. `identity` is what a checkpoint must have been
    made with for this run to go on from it: nested dictionaries of plain values. `first_step` is what trackers count
    from: the images of the stages before.
    """

    def __init__(
        self,
        stage: Stage,
        config: OptimisationConfig,
        folder: Path,
        *,
        accelerator: Accelerator,
        seed: int,
        identity: dict[str, Any],
        first_step: int = 0,
    ) -> None:
        self.stage, self.config, self.folder, self.seed = stage, config, folder, seed
        self.accelerator, self.identity, self.first_step = accelerator, identity, first_step
        self.plain = stage.model.to(accelerator.device, memory_format=torch.channels_last)
        self.networks: dict[str, float] = getattr(stage, "networks", {"": 1.0})
        self.ema = copy.deepcopy(self.plain).eval().requires_grad_(False)
        self.optimizers = self._optimizers()
        self.clipped = [self._named(prefix) for prefix in self.networks]
        self.model = accelerator.prepare_model(self.plain)
        self.parts: dict[str, Any] = {"model": self.plain, "ema": self.ema}
        self.opponent: Opponent | None = getattr(stage, "opponent", None)
        if self.opponent is not None:
            self.opponent.to(accelerator.device, memory_format=torch.channels_last)
            self.optimizers["opponent_optimizer"] = opponent_optimizer(self.opponent, config.learning_rate)
            self.opponent_model = accelerator.prepare_model(self.opponent)
            self.parts["opponent"] = self.opponent
        self.parts |= self.optimizers
        self.images = 0
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self.loss_sum, self.loss_steps = 0.0, 0  # since the last validation
        self.last_checkpoint: Path | None = None
        self.signal_number = 0
        self.goes_on = "the same command"

    def fit(self) -> nn.Module:
        """Trains to `config.images` and returns the averaged model.

        Raises TrainingError on a loss or gradient that is not finite, Interrupted after SIGINT or SIGTERM.
        """
        before = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        quiet = not self.accelerator.is_main_process
        started = time.monotonic() - self.seconds
        bar = tqdm(
            total=self.config.images, initial=self.images, desc=f"stage {self.stage.name}", unit=" images",
            unit_scale=True, disable=quiet or self.images >= self.config.images,
        )  # fmt: skip
        try:
            while self.images < self.config.images:
                seen, loss = self.images, self._step()
                self.seconds = time.monotonic() - started
                bar.update(self.images - seen)
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                done = self.images >= self.config.images
                if done or self._passed(seen, self.config.validate_images):
                    self._validate()
                if done or self.signal_number or self._passed(seen, self.config.checkpoint_images):
                    self._save()
                if self.signal_number:
                    raise Interrupted(
                        self.signal_number,
                        f"stopped by {signal.Signals(self.signal_number).name} after {self.images} images; "
                        f"{self.goes_on} goes on from {self.last_checkpoint}",
                    )
        finally:
            bar.close()
            for number, handler in before.items():
                signal.signal(number, handler)
        return self.ema

    def _step(self) -> float:
        """One optimiser step on the next batch; returns the mean loss of the whole batch, over all processes."""
        config, accelerator = self.config, self.accelerator
        batch = min(config.batch_size, config.images - self.images)
        batch = max(batch, accelerator.num_processes)  # every process takes part in every step
        indices = batch_indices(self.images, batch, self.stage.count, self.seed)
        generator = torch.Generator().manual_seed(derived_seed(self.seed, self.stage.name, self.images))
        if hasattr(self.stage, "begin"):
            self.stage.begin(self.images)
        draws = self.stage.draw(batch, generator)
        for group in (group for optimizer in self.optimizers.values() for group in optimizer.param_groups):
            group["lr"] = group["peak"] * learning_rate_factor(self.images, config)
        opponent = self.opponent if self.opponent is not None and self.opponent.active else None

        share = range(accelerator.process_index, batch, accelerator.num_processes)
        parts = [part for part in np.array_split(np.array(share, dtype=np.int64), config.accumulation) if len(part)]
        self.plain.train()
        total, against = torch.zeros(2, device=accelerator.device)
        gpus = [torch.cuda.current_device()] if accelerator.device.type == "cuda" else []
        with torch.random.fork_rng(gpus):
            torch.manual_seed(derived_seed(self.seed, f"dropout {accelerator.process_index}", self.images))
            for i, part in enumerate(parts):
                last, draw = i == len(parts) - 1, tuple(d[part] for d in draws)
                total += self._backward(self.model, last, batch, self.stage.losses, indices[part], draw)
                if opponent is not None:
                    against += self._backward(self.opponent_model, last, batch, opponent.losses)
        norm = sum(nn.utils.clip_grad_norm_(named.values(), config.clip_norm) for named in self.clipped)
        if opponent is not None:
            norm = norm + nn.utils.clip_grad_norm_(opponent.parameters(), config.clip_norm)
            opponent.adapt(accelerator.reduce)
        if hasattr(self.stage, "end"):
            self.stage.end(accelerator.reduce)
        mean_loss, mean_against, stop = self._agree(total, against, norm)
        if not math.isfinite(mean_loss):
            raise TrainingError(
                f"stage {self.stage.name}: the loss or its gradient is not finite at image {self.images} "
                f"(step {self.images // config.batch_size}); "
                f"the last good checkpoint is {self.last_checkpoint or 'none yet'}"
            )
        self.signal_number = stop or self.signal_number  # one that came while the processes agreed is for the next step
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        self.images += batch
        self._average(batch)
        self.loss_sum, self.loss_steps = self.loss_sum + mean_loss, self.loss_steps + 1
        if self.loss_steps % LOG_STEPS == 0:
            self._log({"loss": mean_loss} | ({} if opponent is None else {"opponent_loss": mean_against}))
        return mean_loss

    def _backward(self, model: nn.Module, last: bool, batch: int, losses: Callable[..., Tensor], *given: Any) -> Tensor:
        """Adds the gradient of losses(model, *given) of a part of the batch; returns what it adds to the mean loss."""
        with nullcontext() if last else self.accelerator.no_sync(model):
            # the one batch reduction: a mean over the whole batch (DDP averages over processes by itself)
            loss = losses(model, *given).sum() * self.accelerator.num_processes / batch
            self.accelerator.backward(loss)
        return loss.detach()

    def _agree(self, loss: Tensor, against: Tensor, norm: Tensor) -> tuple[float, float, int]:
        """Mean losses over processes (NaN where a gradient is not finite) and the signal that any of them got."""
        loss = torch.where(norm.isfinite(), loss, float("nan"))
        mine = torch.stack([loss, against, loss.new_tensor(float(self.signal_number))])
        every = self.accelerator.gather(mine[None])
        return float(every[:, 0].mean()), float(every[:, 1].mean()), int(every[:, 2].max())

    @torch.no_grad()
    def _average(self, batch: int) -> None:
        """EMA with a half-life in images, shorter at first, so that the start is forgotten."""
        half_life = min(self.config.ema_images, 0.1 * self.images)
        weight = 1 - 0.5 ** (batch / half_life)
        for average, value in zip(self.ema.parameters(), self.plain.parameters(), strict=True):
            if value.requires_grad:
                average.lerp_(value, weight)
        for average, value in zip(self.ema.buffers(), self.plain.buffers(), strict=True):
            average.copy_(value)

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """AdamW, and Muon for the filters of convolutions where it has a rate; without what is frozen. Groups of each
        network: the encoder, the rest, and the learned curves of the level, which have no decay."""
        config = self.config
        groups: dict[str, list[dict[str, Any]]] = {"optimizer": [], "muon": []}
        filters = muon.filters(self.plain) if config.muon_rate else set()
        for prefix, network_rate in self.networks.items():
            named = {name: weight for name, weight in self._named(prefix).items() if weight.requires_grad}
            curves = [weight for name, weight in named.items() if "_curve." in name]
            encoder = [weight for name, weight in named.items() if name.startswith(ENCODER)]
            others = [w for name, w in named.items() if not (name.startswith(ENCODER) or "_curve." in name)]
            for weights, rate, decay in (
                (encoder, config.encoder_rate, config.weight_decay),
                (others, 1.0, config.weight_decay),
                (curves, config.curve_rate, 0.0),
            ):
                for name, moved, muon_rate in (
                    ("optimizer", [weight for weight in weights if weight not in filters], 1.0),
                    ("muon", [weight for weight in weights if weight in filters], config.muon_rate),
                ):
                    peak = config.learning_rate * network_rate * rate * muon_rate
                    if moved:
                        groups[name].append({"params": moved, "peak": peak, "lr": peak, "weight_decay": decay})
        adamw = torch.optim.AdamW(groups["optimizer"], betas=config.adam_betas, fused=True)
        return {"optimizer": adamw} | ({"muon": muon.Muon(groups["muon"])} if groups["muon"] else {})

    def _named(self, prefix: str) -> dict[str, nn.Parameter]:
        """Parameters whose names begin with `prefix`, by the rest of their names."""
        named = self.plain.named_parameters()
        return {name.removeprefix(prefix): weight for name, weight in named if name.startswith(prefix)}

    def _validate(self) -> None:
        if self.accelerator.is_main_process:
            with torch.no_grad():
                numbers = self.stage.validate(self.ema, self.images, self.folder / "grids")
            self.history.append(
                {"images": self.images, "train_loss": self.loss_sum / max(1, self.loss_steps)} | numbers
            )
            self._log(self.history[-1])
        self.loss_sum, self.loss_steps = 0.0, 0
        self.accelerator.wait_for_everyone()

    def _log(self, numbers: dict[str, float]) -> None:
        """To the trackers, whose steps must rise over all stages."""
        named = {f"{self.stage.name}/{key}": value for key, value in numbers.items()}
        self.accelerator.log(named, step=self.first_step + self.images)

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            state = {
                "identity": self.identity, "history": self.history, "seconds": self.seconds,
                "loss_sum": self.loss_sum, "loss_steps": self.loss_steps,
            }  # fmt: skip
            folder = self.folder / "checkpoints"
            self.last_checkpoint = checkpoints.save(folder, self.images, self.parts, state)
            checkpoints.keep_only(folder, self.config.keep_checkpoints, self.last_checkpoint)
            write_json(self.folder / "history.json", self.history)
            write_json(self.folder / "summary.json", self.summary())
        self.accelerator.wait_for_everyone()

    def summary(self) -> dict[str, Any]:
        """Size, speed and place of the training so far."""
        return {
            "images": self.images,
            "seconds": self.seconds,
            "images_per_second": self.images / max(self.seconds, 1e-9),
            "parameters": sum(p.numel() for p in self.plain.parameters()),
            "device": str(self.accelerator.device),
            "processes": self.accelerator.num_processes,
            "precision": precision_of(self.accelerator),
            "peak_memory_gb": peak_memory(self.accelerator.device),
        }

    def resume(self, resume: str = "auto") -> None:
        """Goes on from a checkpoint: `resume` as in RunConfig. ValueError where it was made with other settings.

        "never" deletes the checkpoints that there are: what is stopped before it has its own starts again.
        """
        folder = self.folder / "checkpoints"
        self.goes_on = "the same command" if resume == "auto" else "the same with --resume auto"
        if resume == "never" and self.accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        found = None if resume == "never" else checkpoints.newest(folder) if resume == "auto" else Path(resume)
        if found is None:
            return
        state = checkpoints.read_state(found)
        difference = first_difference(state["identity"], self.identity)
        if difference:
            raise ValueError(
                f"{found} was made with {difference}; use the same setting, another --out, or --resume never"
            )
        checkpoints.load(found, self.parts)
        self.images, self.history, self.seconds = state["images"], state["history"], state["seconds"]
        self.loss_sum, self.loss_steps = state["loss_sum"], state["loss_steps"]
        self.last_checkpoint = found
        self.accelerator.print(f"stage {self.stage.name}: goes on from {found}")

    def _passed(self, seen: int, interval: int) -> bool:
        return self.images // interval > seen // interval

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.signal_number = number
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once


def precision_of(accelerator: Accelerator) -> str:
    """The precision that the networks compute in, by its name in RunConfig: "bf16" or "fp32"."""
    return "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision


def peak_memory(device: torch.device) -> float:
    """The most memory that this process has had, GB: on the GPU where it is used, else of the process itself."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def batch_indices(start: int, count: int, total: int, seed: int) -> np.ndarray:
    """Which of `total` images are numbers start .. start+count-1 of an endless stream of shuffled epochs: int64."""
    position = np.arange(start, start + count)
    indices = np.empty(count, np.int64)
    for epoch in range(start // total, position[-1] // total + 1):
        here = position // total == epoch
        indices[here] = epoch_order(epoch, total, seed)[position[here] % total]
    return indices


@lru_cache(maxsize=2)
def epoch_order(epoch: int, total: int, seed: int) -> np.ndarray:
    """The order of an epoch: a permutation of range(total)."""
    return np.random.default_rng([seed, epoch]).permutation(total)


def derived_seed(seed: int, purpose: str, count: int) -> int:
    """A seed for one purpose at one moment, unrelated to those of others."""
    words = [seed, count, *purpose.encode()]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def learning_rate_factor(images: int, config: OptimisationConfig) -> float:
    """Share of the peak rate: linear warm-up times a cosine down to 0."""
    warmup = min(1.0, (images + config.batch_size) / max(config.warmup_images, 1))
    return warmup * 0.5 * (1 + math.cos(math.pi * images / config.images))


def first_difference(old: Any, new: Any, where: str = "") -> str:
    """Names the first key in which two nested dictionaries or lists differ, with the old and the new value; else ''."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            found = first_difference(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
            if found:
                return found
        return ""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = zip(old, new, strict=True)
        return next(filter(None, (first_difference(a, b, f"{where}.{i}") for i, (a, b) in enumerate(pairs))), "")
    return "" if old == new else f"{where} = {old!r}, not {new!r}"
