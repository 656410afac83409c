"""Frozen text encoders of transformers: sentence encoders, CLIP's and T5's, by hub id or local path."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

LONGEST = 128  # tokens of a text that an encoder reads, where its own limit is not lower
BATCH = 64


class TextEncoder(nn.Module):
    """Texts to codes (B, 1 + tokens, width), float32 on the CPU: each text as a whole, then its tokens, then zeros.

    The whole, of length 1, is CLIP's own or, for the others, the mean of the tokens, which is what most sentence
    encoders were trained for. Texts longer than `tokens` keep their first ones.
    Raises ValueError where there is no text encoder of that name or path.
    """

    def __init__(self, name_or_path: str, tokens: int = 0) -> None:
        super().__init__()
        from transformers import AutoTokenizer

        self.tokens = tokens
        try:
            self.model = _load(name_or_path).eval().requires_grad_(False)
            self.tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"no text encoder can be had from {name_or_path}, as a hub id or a local folder: {reason}"
            ) from error
        self.longest = min(LONGEST, self.tokenizer.model_max_length)
        self.width: int = getattr(self.model.config, "hidden_size", None) or self.model.config.d_model

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor:
        return torch.cat([self._codes(list(texts[i : i + BATCH])) for i in range(0, len(texts), BATCH)])

    def _codes(self, texts: list[str]) -> Tensor:
        given = self.tokenizer(texts, padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
        given = {key: given[key].to(self.model.device) for key in ("input_ids", "attention_mask")}
        output = self.model(**given)
        hidden, mask = output.last_hidden_state.float(), given["attention_mask"][:, :, None]
        whole = output.pooler_output.float() if self._is_clip() else (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        tokens = (hidden * mask)[:, : self.tokens]
        tokens = pad(tokens, (0, 0, 0, self.tokens - tokens.shape[1]))
        return torch.cat([normalize(whole, dim=1)[:, None], tokens], dim=1).cpu()

    def _is_clip(self) -> bool:
        return self.model.config.model_type.startswith("clip")


def _load(name_or_path: str) -> nn.Module:
    from transformers import (
        MODEL_FOR_TEXT_ENCODING_MAPPING,
        AutoConfig,
        AutoModel,
        AutoModelForTextEncoding,
        CLIPTextModel,
    )

    with torch.device("cpu"):
        torch.empty(0)  # torch now notes what a device applies to; transformers patches linspace, which would be lost
    config = AutoConfig.from_pretrained(name_or_path)
    if config.model_type.startswith("clip"):
        return CLIPTextModel.from_pretrained(name_or_path)
    known = type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING  # such as T5, of which only the encoder is wanted
    return (AutoModelForTextEncoding if known else AutoModel).from_pretrained(name_or_path)
