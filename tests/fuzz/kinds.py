"""Generators of nodes, one for each kind that has hardware: a new kind joins by one small class here."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]
Options = Mapping[str, Any]
MOST = 160  # elements of a tensor
FEATURES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13)


class Kind(ABC):
    """Draw, type and build nodes; ``op`` is the operator's kind."""

    op: ClassVar[str]
    inputs: ClassVar[int] = 1
    weights: ClassVar[bool] = False
    last: ClassVar[bool] = False  # its result may be an integer, which no other node takes

    @abstractmethod
    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        """Return options for inputs of these shapes; None where they do not fit."""

    def shape(self, options: Options, shapes: Sequence[Shape]) -> Shape:
        """Return the shape of the result."""
        return shapes[0]

    @abstractmethod
    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        """Return what computes it."""


class Function(nn.Module):
    """A function as a module, so that its node has a path."""

    def __init__(self, function: Any) -> None:  # Any: of one tensor or of two
        super().__init__()
        self.function = function

    def forward(self, *x: Tensor) -> Tensor:
        found: Tensor = self.function(*x)
        return found


class Linear(Kind):
    """Linear layers along the last axis."""

    op, weights = "linear", True

    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        if len(shapes[0]) > 2:
            return None
        outputs = rng.choice([n for n in FEATURES if n * math.prod(shapes[0][:-1]) <= MOST])
        return {"outputs": outputs, "bias": rng.random() < 0.7, "zeros": rng.random() < 0.2}

    def shape(self, options: Options, shapes: Sequence[Shape]) -> Shape:
        return (*shapes[0][:-1], int(options["outputs"]))

    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        made = nn.Linear(shapes[0][-1], options["outputs"], bias=options["bias"])
        if options["zeros"]:
            with torch.no_grad():
                made.weight[torch.rand_like(made.weight) < 0.5] = 0.0
        return made


class Conv(Kind):
    """Convolutions of images and of sequences: odd kernels, strides, borders, dilation, groups."""

    op, weights = "conv", True

    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        channels, *size = shapes[0]
        if len(size) not in {1, 2}:
            return None
        kernel = [rng.choice((1, 1, 2, 3)) for _ in size]
        groups = rng.choice([g for g in range(1, channels + 1) if channels % g == 0 and g in {1, 2, 3, channels}])
        options = {
            "outputs": groups * rng.randint(1, 3),
            "kernel": kernel,
            "stride": [rng.choice((1, 1, 2)) for _ in size],
            "padding": [rng.randint(0, k // 2) for k in kernel],
            "dilation": [rng.choice((1, 1, 1, 2)) if k > 1 else 1 for k in kernel],
            "groups": groups,
            "bias": rng.random() < 0.7,
        }
        try:
            return options if math.prod(self.shape(options, shapes)) <= MOST else None
        except ValueError:
            return None

    def shape(self, options: Options, shapes: Sequence[Shape]) -> Shape:
        channels, *size = shapes[0]
        rules = zip(*(options[k] for k in ("kernel", "stride", "padding", "dilation")), strict=True)
        sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, (k, s, p, d) in zip(size, rules, strict=True)]
        if min(sizes) < 1 or channels % options["groups"]:
            raise ValueError("the kernel does not fit")
        return (int(options["outputs"]), *sizes)

    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        make = nn.Conv1d if len(shapes[0]) == 2 else nn.Conv2d
        kernel, stride, padding, dilation = (tuple(options[k]) for k in ("kernel", "stride", "padding", "dilation"))
        more = {"groups": options["groups"], "bias": options["bias"], "dilation": dilation}
        return make(shapes[0][0], options["outputs"], kernel, stride, padding, **more)  # type: ignore[arg-type]  # pairs


class Activation(Kind):
    """ReLU, and functions through a table."""

    op = "activation"
    functions: ClassVar[Mapping[str, type[nn.Module]]] = {
        "relu": nn.ReLU,
        "relu6": nn.ReLU6,
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
        "hardswish": nn.Hardswish,
        "hardsigmoid": nn.Hardsigmoid,
        "leaky": nn.LeakyReLU,
    }

    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        return {"function": rng.choice(("relu", "relu", "relu", *self.functions))}

    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        return self.functions[options["function"]]()


class Add(Kind):
    """Sums and differences of two tensors, also of one with itself."""

    op, inputs = "add", 2

    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        return {"function": rng.choice(("add", "add", "sub"))} if shapes[0] == shapes[1] else None

    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        return Function(torch.add if options["function"] == "add" else torch.sub)


class Mul(Kind):
    """Products of two tensors."""

    op, inputs = "mul", 2

    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        return {} if shapes[0] == shapes[1] else None

    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        return Function(torch.mul)


class Norm(Kind):
    """Batch normalisation, folded into the layer before it or alone."""

    op = "norm"

    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        return {} if len(shapes[0]) in {1, 3} else None

    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        made = (nn.BatchNorm1d if len(shapes[0]) == 1 else nn.BatchNorm2d)(shapes[0][0])
        with torch.no_grad():
            for x in (made.weight, made.bias, made.running_mean):
                assert x is not None
                x.copy_(torch.randn_like(x))
            assert made.running_var is not None
            made.running_var.copy_(torch.rand_like(made.running_var) + 0.25)
        return made


class RowNorm(Kind):
    """Layer and root-mean-square norms along the last axis."""

    op = "norm"

    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        return {"function": rng.choice(("layer", "rms"))} if len(shapes[0]) < 3 else None

    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        made: nn.Module = (nn.LayerNorm if options["function"] == "layer" else nn.RMSNorm)(shapes[0][-1])
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.copy_(torch.randn_like(parameter))
        return made


class Scale(Kind):
    """A product with a constant along the last axis."""

    op = "mul"

    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        return {"seed": rng.getrandbits(20)} if len(shapes[0]) < 3 else None

    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        return Times(torch.randn(shapes[0][-1], generator=torch.Generator().manual_seed(options["seed"])))


class Times(nn.Module):
    """y = x * constant."""

    constant: Tensor

    def __init__(self, constant: Tensor) -> None:
        super().__init__()
        self.register_buffer("constant", constant)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.constant


class Pool(Kind):
    """Pools of images, and means of whole ones."""

    op = "pool"

    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        if len(shapes[0]) != 3 or min(shapes[0][1:]) < 2:
            return None
        kernel = rng.choice((2, 2, min(3, *shapes[0][1:])))
        return {"function": rng.choice(("max", "mean", "whole")), "kernel": kernel, "stride": rng.choice((1, 2))}

    def shape(self, options: Options, shapes: Sequence[Shape]) -> Shape:
        channels, *size = shapes[0]
        if options["function"] == "whole":
            return (channels, 1, 1)
        sizes = [(n - options["kernel"]) // options["stride"] + 1 for n in size]
        if len(sizes) != 2 or min(sizes) < 1:
            raise ValueError("the kernel does not fit")
        return (channels, *sizes)

    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        if options["function"] == "whole":
            return nn.AdaptiveAvgPool2d(1)
        return (nn.MaxPool2d if options["function"] == "max" else nn.AvgPool2d)(options["kernel"], options["stride"])


class Flatten(Kind):
    """Views: a matrix or an image as one row."""

    op = "layout"

    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        return {} if len(shapes[0]) > 1 else None

    def shape(self, options: Options, shapes: Sequence[Shape]) -> Shape:
        return (math.prod(shapes[0]),)

    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        return nn.Flatten()


class Concat(Kind):
    """Two tensors one after the other along the first axis of a sample: channels, features, rows."""

    op, inputs = "layout", 2

    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        return {} if shapes[0][1:] == shapes[1][1:] and len(shapes[0]) == len(shapes[1]) else None

    def shape(self, options: Options, shapes: Sequence[Shape]) -> Shape:
        if shapes[0][1:] != shapes[1][1:]:
            raise ValueError("only the first axis may differ")
        return (shapes[0][0] + shapes[1][0], *shapes[0][1:])

    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        return Function(lambda a, b: torch.cat((a, b), 1))


class Slice(Kind):
    """A part of an axis."""

    op = "layout"

    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        axis = rng.randrange(len(shapes[0]))
        size = shapes[0][axis]
        start = rng.randrange(size)
        return {"axis": axis, "start": start, "stop": rng.randint(start + 1, size)}

    def shape(self, options: Options, shapes: Sequence[Shape]) -> Shape:
        size, axis = list(shapes[0]), int(options["axis"])
        if axis >= len(size) or options["stop"] > size[axis]:
            raise ValueError("there is no such part")
        size[axis] = options["stop"] - options["start"]
        return tuple(size)

    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        axis, start, stop = 1 + options["axis"], options["start"], options["stop"]
        return Function(lambda x: x.narrow(axis, start, stop - start))


class Border(Kind):
    """Zeros before and behind the elements of the first axis but the channels of a sample."""

    op = "layout"

    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        return {"before": rng.randint(0, 1), "behind": rng.randint(0, 2)} if len(shapes[0]) > 1 else None

    def shape(self, options: Options, shapes: Sequence[Shape]) -> Shape:
        if len(shapes[0]) < 2:
            raise ValueError("there is no such axis")
        axis = len(shapes[0]) - 2
        more = options["before"] + options["behind"]
        return tuple(size + more * (i == axis) for i, size in enumerate(shapes[0]))

    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        return Function(lambda x: nn.functional.pad(x, (0, 0, options["before"], options["behind"])))


class Flip(Kind):
    """An axis of a sample backwards."""

    op = "layout"

    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        return {"axis": rng.randrange(len(shapes[0]))}

    def shape(self, options: Options, shapes: Sequence[Shape]) -> Shape:
        if options["axis"] >= len(shapes[0]):
            raise ValueError("there is no such axis")
        return shapes[0]

    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        return Function(lambda x: x.flip(1 + options["axis"]))


class Permute(Kind):
    """Two axes of a sample in each other's place."""

    op = "layout"

    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        rank = len(shapes[0])
        return {"axes": rng.sample(range(rank), 2)} if rank > 1 else None

    def shape(self, options: Options, shapes: Sequence[Shape]) -> Shape:
        size, (a, b) = list(shapes[0]), options["axes"]
        if max(a, b) >= len(size):
            raise ValueError("there is no such axis")
        size[a], size[b] = size[b], size[a]
        return tuple(size)

    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        a, b = options["axes"]
        return Function(lambda x: x.transpose(1 + a, 1 + b))


class Argmax(Kind):
    """The index of the greatest along the last axis."""

    op, last = "argmax", True

    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        return {"keep": len(shapes[0]) == 1 or rng.random() < 0.5}

    def shape(self, options: Options, shapes: Sequence[Shape]) -> Shape:
        return (*shapes[0][:-1], 1) if options["keep"] else shapes[0][:-1]

    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        return Function(lambda x: x.argmax(-1, keepdim=options["keep"]))


class Topk(Kind):
    """The greatest elements along the last axis, or their indices."""

    op, last = "topk", True

    def draw(self, rng: Random, shapes: Sequence[Shape]) -> Options | None:
        return {"k": rng.randint(1, min(4, shapes[0][-1])), "part": rng.randint(0, 1)}

    def shape(self, options: Options, shapes: Sequence[Shape]) -> Shape:
        if options["k"] > shapes[0][-1]:
            raise ValueError("there are fewer elements")
        return (*shapes[0][:-1], int(options["k"]))

    def module(self, options: Options, shapes: Sequence[Shape]) -> nn.Module:
        return Function(lambda x: x.topk(options["k"], -1)[options["part"]])


ALL = (
    *(Linear, Conv, Activation, Add, Mul, Scale, Norm, RowNorm, Pool),
    *(Flatten, Concat, Slice, Border, Flip, Permute, Argmax, Topk),
)
KINDS: dict[str, Kind] = {kind.__name__.lower(): kind() for kind in ALL}
NOT_DRAWN = {  # kinds with hardware that no node of a model asks for here, and why
    "requantize": "no layer of a model is one; tests/emit/draws.py inserts them",
}
