"""Where the weights of a judging network are, and which they are."""

import hashlib
import re
from pathlib import Path

CHUNK = 1 << 24  # bytes


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def weights_file(weights: str | Path) -> Path:
    """The local file of `weights`: a path, or a hub id "owner/name" (its model.safetensors) or "owner/name/FILE".

    Raises ValueError where there is no such file, here or on the hub.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    hub_id = re.fullmatch(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:/([\w./-]+))?", str(weights))
    if hub_id is None:
        raise ValueError(f"{weights} is not a file, nor a hub id such as owner/name or owner/name/FILE.")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(hub_id[1], hub_id[2] or "model.safetensors"))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{weights} is not a file here, and cannot be had from the hub ({reason}).") from error
