"""The features of FID: InceptionV3 as TensorFlow's first implementation had it, from torch-fidelity."""

import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from betadiffusion.metrics.features import extract
from betadiffusion.metrics.weights import file_sha256


class InceptionV3:
    """Pooled features (B, 2048) of torch-fidelity's "inception-v3-compat", with which a Fréchet distance is FID.

    weights: a local file of its state dict, saved by torch (`weights-inception-2015-12-05-6726825d.pth`); None for
    torch-fidelity's own download, kept in torch's hub folder. Needs the extra `fid`. Every image is resized to
    299 x 299 as TensorFlow 1 does. Source: Heusel et al. 2017; Obukhov et al., torch-fidelity.
    Raises ImportError without the extra, ValueError for weights that are not these.
    """

    short_name = "Inception"
    name = "InceptionV3 (torch-fidelity inception-v3-compat, 2048)"
    resize = "299 px bilinear as TensorFlow 1"
    dim = 2048

    def __init__(
        self, weights: str | Path | None = None, batch_size: int = 64, device: torch.device | str = "cpu"
    ) -> None:
        module = _torch_fidelity()
        self.batch_size, self.device = batch_size, torch.device(device)
        path = Path(weights).expanduser() if weights is not None else _download(module.URL_INCEPTION_V3)
        self.weights_sha256, state = _read(path)
        with tempfile.TemporaryDirectory() as folder:  # torch-fidelity unpickles what it is given: give it our own
            trusted = Path(folder) / "weights.pth"
            torch.save(state, trusted)
            try:
                model = module.FeatureExtractorInceptionV3(
                    "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(trusted)
                )
            except (RuntimeError, TypeError, AttributeError) as error:
                raise ValueError(f"{path} does not hold the weights of inception-v3-compat.") from error
        self._model = model.eval().requires_grad_(False).to(self.device)

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        """Features, float32 (B, 2048), of images, uint8 (B, 1 or 3, H, W) in 0..255; ValueError for anything else."""
        return extract(images, lambda batch: self._model(batch)[0], self.batch_size, self.device)


def _torch_fidelity() -> ModuleType:
    try:
        from torch_fidelity import feature_extractor_inceptionv3
    except (ImportError, RuntimeError) as error:  # torchvision, which it needs, raises either where it does not fit
        raise ImportError(
            f"InceptionV3 needs torch-fidelity and torchvision: pip install 'betadiffusion[fid]' ({error})."
        ) from error
    return feature_extractor_inceptionv3


def _download(url: str) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        expected = path.stem.rsplit("-", 1)[-1]  # the name ends with the first digits of the file's SHA-256
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=expected)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"InceptionV3's weights cannot be had from {url} ({error}): give a local file.") from error
    return path


def _read(path: Path) -> tuple[str, Any]:
    """First 12 digits of the SHA-256 of a file, and what torch saved in it."""
    try:
        return file_sha256(path)[:12], torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"InceptionV3's weights cannot be read from {path} ({error.strerror}).") from error
    except Exception as error:  # a broken file makes torch raise nearly anything
        raise ValueError(f"{path} is not a state dict saved by torch.") from error
