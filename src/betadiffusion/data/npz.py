"""Arrays in a .npz file, a zip of .npy files, without holding them in memory or unpickling anything."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from betadiffusion.data.protocols import DataError

ROWS = 1024  # per block


class NpzArray:
    """One (N, ...) uint8 array in a .npz file. DataError: no zip, no such array, another type, cut short.

    shape: of the array.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self._info = archive.getinfo(f"{name}.npy")
                with archive.open(self._info) as file:
                    self.shape, self._start = _header(file)
        except KeyError as error:
            raise DataError(f"{path} holds no array {name}.") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise self._damaged(error) from error

    def mapped(self) -> np.ndarray | None:
        """The array mapped into memory where it lies uncompressed in the file, else None."""
        if self._info.compress_type != zipfile.ZIP_STORED:
            return None
        with self.path.open("rb") as file:
            file.seek(self._info.header_offset)
            lengths = struct.unpack("<26x2H", file.read(30))  # PKWARE's APPNOTE 4.3.7: of the name and the extra field
        offset = self._info.header_offset + 30 + sum(lengths) + self._start
        return np.asarray(np.memmap(self.path, np.uint8, "r", offset, self.shape))

    def blocks(self) -> Iterator[np.ndarray]:
        """The array's rows, a block of them at a time."""
        row = int(np.prod(self.shape[1:]))
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self._info) as file:
                file.read(self._start)
                while data := file.read(ROWS * row):
                    yield np.frombuffer(data, np.uint8).reshape(-1, *self.shape[1:])
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DataError:
        return DataError(f"{self.path} is not a .npz file, or it is damaged or cut short ({error}).")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], int]:
    """Shape of a .npy file of bytes, and where its values begin."""
    old = np.lib.format.read_magic(file) == (1, 0)
    shape, fortran, dtype = (np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0)(file)
    if fortran or dtype != np.uint8:
        raise ValueError(f"its images are {dtype}, not uint8 in C order")
    return shape, file.tell()
