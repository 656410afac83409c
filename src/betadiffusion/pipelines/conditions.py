"""From what a person asks for ("coat", {"female": True}, "a dog on grass") to the tensor that a denoiser takes."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral

import torch
from torch import Tensor

from betadiffusion.nn.condition import ConditionSpec

One = int | str | Mapping[str, bool | int]
Condition = Tensor | One | Sequence[One]


def condition_tensor(
    spec: ConditionSpec, wanted: Condition, count: int, encode: Callable[[list[str]], Tensor]
) -> Tensor:
    """`count` conditions as `nn.condition` has them, from one for all or a sequence of one each.

    A class is a name or a number, attributes are a dictionary of those that are to be (1) or not to be (0), a text is
    a string, which `encode` turns into codes; a tensor is taken as it is. ValueError for whatever this one cannot be.
    """
    if isinstance(wanted, Tensor):
        return _checked(spec, wanted, count)
    every = [wanted] if isinstance(wanted, (str, Mapping, Integral)) else list(wanted)
    if len(every) not in (1, count):
        raise ValueError(f"{len(every)} conditions do not fit {count} images: give one for all, or one for each")
    if spec.kind == "text":
        if wrong := [one for one in every if not isinstance(one, str)]:
            raise ValueError(f"the condition of this run is a text, not {wrong[0]!r}")
        values = encode(every)
    else:
        values = torch.tensor([(_label if spec.kind == "labels" else _attributes)(spec, one) for one in every])
    return values.expand(count, *values.shape[1:])


def _label(spec: ConditionSpec, one: One) -> int:
    if isinstance(one, Mapping):
        raise ValueError(f"the condition of this run is a class ({_some(spec)}), not attributes")
    if isinstance(one, str):
        if one in spec.names:
            return spec.names.index(one)
        if not one.isdecimal():
            raise ValueError(f"there is no class {one!r}{_near(spec, one)}")
    if not 0 <= int(one) < len(spec.names):
        raise ValueError(f"there is no class {one}: they are 0 to {len(spec.names) - 1} ({_some(spec)})")
    return int(one)


def _attributes(spec: ConditionSpec, one: One) -> list[int]:
    if not isinstance(one, Mapping):
        raise ValueError(f"the condition of this run is attributes ({_some(spec)}), not {one!r}")
    for name, value in one.items():
        if name not in spec.names:
            raise ValueError(f"there is no attribute {name!r}{_near(spec, name)}")
        if value not in (0, 1):
            raise ValueError(f"the attribute {name!r} is 1 or 0, not {value!r}")
    return [int(one.get(name, -1)) for name in spec.names]


def _checked(spec: ConditionSpec, wanted: Tensor, count: int) -> Tensor:
    like = spec.null(count)
    if wanted.shape != like.shape:
        raise ValueError(f"a condition of shape {tuple(like.shape)} is needed, not {tuple(wanted.shape)}")
    if spec.kind != "text" and wanted.numel():
        top = len(spec.names) - 1 if spec.kind == "labels" else 1
        if wanted.is_floating_point() or not -1 <= int(wanted.min()) <= int(wanted.max()) <= top:
            raise ValueError(f"a condition of kind {spec.kind!r} holds whole numbers from -1 to {top}")
    return wanted


def _near(spec: ConditionSpec, name: str) -> str:
    near = difflib.get_close_matches(name, spec.names, n=1)
    return f": did you mean {near[0]!r}?" if near else f": choose from {_some(spec)}"


def _some(spec: ConditionSpec) -> str:
    return ", ".join(spec.names[:20]) + (", ..." if len(spec.names) > 20 else "")
