"""Vision transformers of the transformers library as encoders of patch tokens: DINOv2, MAE, ViT and DeiT."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

MODEL_TYPES = ("vit", "deit", "vit_mae", "dinov2", "dinov2_with_registers")
NOTES = ("transformers_version", "architectures", "dtype", "id2label", "label2id")  # that change no encoder


class ViTEncoder(nn.Module):
    """Square images (B,C,H,W) in [-1, 1] to patch tokens h (B,N,width) after the last norm, in raster order, float32.

    config: a transformers configuration as a dictionary, with its `model_type`; the weights are random.
    image_mean, image_std: normalisation that the encoder expects of images in [0, 1], one value or one per channel.
    Position embeddings are interpolated to any size that the patch size divides; grey images are repeated where the
    encoder sees colours. Unless `trained` it stays in eval mode and builds no graph.
    Raises ValueError for an unknown type of encoder, a normalisation that does not fit, or a size that does not.
    """

    def __init__(
        self, config: dict[str, Any], image_mean: Sequence[float], image_std: Sequence[float], trained: bool
    ) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        if (kind := config.get("model_type")) not in MODEL_TYPES:
            raise ValueError(f"an encoder has a model_type among {', '.join(MODEL_TYPES)}, not {kind!r}")
        full = AutoConfig.for_model(**(config | {"mask_ratio": 0.0}))
        self.network = AutoModel.from_config(full, dtype=torch.float32)
        self.network.pooler = None
        self.trained = trained
        self.patch_size, self.width, self.channels = full.patch_size, full.hidden_size, full.num_channels
        for name, values in (("image_mean", image_mean), ("image_std", image_std)):
            if len(values) not in (1, self.channels):
                raise ValueError(f"{name} has {len(values)} values, but the encoder has {self.channels} channels")
            self.register_buffer(name, torch.tensor(values).float().view(-1, 1, 1), persistent=False)
        if not trained:
            self.requires_grad_(False)
        elif getattr(self.network.embeddings, "mask_token", None) is not None:
            self.network.embeddings.mask_token.requires_grad_(False)  # never used here

    def train(self, mode: bool = True) -> "ViTEncoder":
        """A frozen encoder has no dropout, whatever the model around it does."""
        return super().train(mode and self.trained)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        grid = grid_side(x.shape[-2:], self.patch_size)
        x = ((x + 1) / 2 - self.image_mean) / self.image_std
        x = x.expand(-1, self.channels, -1, -1)
        if mask is not None:  # (B,g,g), patches to hide: 0 is the mean colour
            x = x.masked_fill(torch.kron(mask, mask.new_ones(self.patch_size, self.patch_size))[:, None], 0)
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            h = self.network(pixel_values=x, **self._options(x, grid**2)).last_hidden_state
        return h[:, -(grid**2) :].float()  # patches come last, after class, distillation and register tokens

    def _options(self, x: Tensor, tokens: int) -> dict[str, Any]:
        """Any size: DINOv2 always interpolates, the others on demand. MAE shuffles tokens by `noise`: rising, not."""
        kind = self.network.config.model_type
        if kind.startswith("dinov2"):
            return {}
        options: dict[str, Any] = {"interpolate_pos_encoding": True}
        if kind == "vit_mae":
            options["noise"] = torch.arange(tokens, device=x.device, dtype=torch.float32).expand(len(x), -1)
        return options


def grid_side(size: Sequence[int], patch_size: int) -> int:
    """Patches along a side of square images of size (H, W); ValueError, naming the nearest sizes, where none fit."""
    height, width = size
    if height != width or height % patch_size:
        below = max(height // patch_size, 1) * patch_size
        above = below + patch_size
        raise ValueError(
            f"images of {height}x{width} do not fit patches of {patch_size}: use {below}x{below} or {above}x{above}"
        )
    return height // patch_size


def load_encoder(name_or_path: str) -> tuple[dict[str, Any], dict[str, Tensor], list[float], list[float]]:
    """Configuration, weights, mean and standard deviation of an encoder, from a hub id or a local folder.

    The folder has config.json, model.safetensors and preprocessor_config.json, as `save_pretrained` leaves them.
    Raises ValueError where there is no such encoder, or one of an unsupported type.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    with torch.device("cpu"):
        torch.empty(0)  # torch lists its functions that make tensors now, before transformers exchanges one of them
    try:
        config = AutoConfig.from_pretrained(name_or_path)
        if config.model_type not in MODEL_TYPES:
            raise ValueError(f"model_type {config.model_type!r} is not one of {', '.join(MODEL_TYPES)}")
        processor = AutoImageProcessor.from_pretrained(name_or_path)
        network = AutoModel.from_pretrained(name_or_path, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"no encoder at {name_or_path}, as a hub id or a local folder: {reason}") from error
    network.pooler = None
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0], [1.0])
    plain = {key: value for key, value in config.to_diff_dict().items() if key not in NOTES}
    return plain, network.state_dict(), list(mean), list(std)
