"""Call operations with arguments that hardly ever fit, in a process of its own: a crash would end it.

``python -m tests.aten_child TRIES [NAME ...]`` prints each name before it calls it, so that the last one is to blame.
"""

from __future__ import annotations

import random
import resource
import sys
import warnings
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from mase import aten

LIMIT = 8 << 30  # bytes of memory
INTS = (-1, 0, 1, 2, 3, 4, 5, -2, 7, 64, -100, 2**31 - 1, -(2**31), 2**62, 2**63 - 1, -(2**63))
REALS = (0.0, 1.0, -1.0, 0.5, 2.0, float("nan"), float("inf"), -float("inf"), 1e300, 1e-300)
SHAPES = (
    (),
    (0,),
    (1,),
    (3,),
    (4,),
    (2, 3),
    (3, 4),
    (0, 3),
    (2, 3, 4),
    (1, 2, 3, 4),
    (2, 4, 5, 5),
    (12, 4),
    (2, 2, 3, 4, 4),
)
TEXTS = ("", "ij,jk->ik", "ii->i", "constant", "reflect", "same", "valid", "mean", "sum", "none", "tanh", "trunc", "ij")
LAYOUTS = (torch.contiguous_format, torch.preserve_format, torch.channels_last)
MANY = {
    "List[Tensor]": "Tensor",
    "List[Optional[Tensor]]": "Optional[Tensor]",
    "List[int]": "int",
    "List[float]": "float",
}


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


def ids(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def cell(gates: int) -> list[Tensor]:
    """Weights of one recurrent layer of 4 inputs and 3 states."""
    return [ones(3 * gates, 4), ones(3 * gates, 3), ones(3 * gates), ones(3 * gates)]


def cases() -> dict[str, list[Any]]:
    """Return arguments that fit, of operations that random ones never reach."""
    image, state, table = ones(2, 4, 6, 6), ones(1, 2, 3), ones(3, 4)
    layers: list[Any] = [True, 1, 0.0, False, False, False]
    found: dict[str, list[Any]] = {
        "lstm.input": [ones(5, 2, 4), [state, state], cell(4), *layers],
        "gru.input": [ones(5, 2, 4), state, cell(3), *layers],
        "rnn_tanh.input": [ones(5, 2, 4), state, cell(1), *layers],
        "rnn_relu.input": [ones(5, 2, 4), state, cell(1), *layers],
        "lstm_cell": [ones(2, 4), [ones(2, 3), ones(2, 3)], *cell(4)],
        "gru_cell": [ones(2, 4), ones(2, 3), *cell(3)],
        "rnn_tanh_cell": [ones(2, 4), ones(2, 3), *cell(1)],
        "rnn_relu_cell": [ones(2, 4), ones(2, 3), *cell(1)],
        "conv1d": [ones(2, 4, 6), ones(3, 4, 2), ones(3), [1], [0], [1], 1],
        "conv2d": [image, ones(3, 4, 2, 2), ones(3), [1, 1], [0, 0], [1, 1], 1],
        "conv3d": [ones(1, 2, 4, 4, 4), ones(3, 2, 2, 2, 2), None, [1, 1, 1], [0, 0, 0], [1, 1, 1], 1],
        "conv2d.padding": [image, ones(3, 4, 2, 2), None, [1, 1], "same", [1, 1], 1],
        "conv_transpose1d": [ones(2, 4, 6), ones(4, 3, 2), ones(3), [1], [0], [0], 1, [1]],
        "conv_transpose2d.input": [image, ones(4, 3, 2, 2), None, [1, 1], [0, 0], [0, 0], 1, [1, 1]],
        "convolution": [image, ones(3, 4, 2, 2), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1],
        "avg_pool1d": [ones(2, 4, 6), [2], [2], [0], False, True],
        "avg_pool2d": [image, [2, 2], [2, 2], [0, 0], False, True, None],
        "avg_pool3d": [ones(1, 2, 4, 4, 4), [2, 2, 2], [2, 2, 2], [0, 0, 0], False, True, None],
        "max_pool1d": [ones(2, 4, 6), [2], [2], [0], [1], False],
        "max_pool2d": [image, [2, 2], [2, 2], [0, 0], [1, 1], False],
        "max_pool2d_with_indices": [image, [2, 2], [2, 2], [0, 0], [1, 1], False],
        "max_pool3d": [ones(1, 2, 4, 4, 4), [2, 2, 2], [2, 2, 2], [0, 0, 0], [1, 1, 1], False],
        "max_pool3d_with_indices": [ones(1, 2, 4, 4, 4), [2, 2, 2], [2, 2, 2], [0, 0, 0], [1, 1, 1], False],
        "adaptive_avg_pool2d": [image, [2, 2]],
        "_adaptive_avg_pool2d": [image, [2, 2]],
        "adaptive_max_pool2d": [image, [2, 2]],
        "im2col": [image, [2, 2], [1, 1], [0, 0], [1, 1]],
        "reflection_pad2d": [image, [1, 1, 1, 1]],
        "replication_pad2d": [image, [1, 1, 1, 1]],
        "replication_pad3d": [ones(1, 2, 4, 4, 4), [1, 1, 1, 1, 1, 1]],
        "pad": [image, [1, 1, 1, 1], "constant", 0.0],
        "grid_sampler": [image, ones(2, 3, 3, 2), 0, 0, False],
        "grid_sampler_2d": [image, ones(2, 3, 3, 2), 0, 0, False],
        "upsample_bilinear2d": [image, [3, 3], False, None, None],
        "upsample_bilinear2d.vec": [image, [3, 3], False, None],
        "upsample_bicubic2d": [image, [3, 3], False, None, None],
        "upsample_nearest1d": [ones(2, 4, 6), [3], None],
        "upsample_nearest2d": [image, [3, 3], None, None],
        "upsample_nearest2d.vec": [image, [3, 3], None],
        "upsample_nearest3d": [ones(1, 2, 4, 4, 4), [3, 3, 3], None, None, None],
        "upsample_linear1d": [ones(2, 4, 6), [3], False, None],
        "upsample_trilinear3d.vec": [ones(1, 2, 4, 4, 4), [3, 3, 3], False, None],
        "embedding": [table, ids(2, 5), -1, False, False],
        "gather": [table, 0, ids(2, 4), False],
        "index.Tensor": [table, [ids(2), None]],
        "index_put": [table, [ids(2), None], ones(2, 4), False],
        "index_select": [table, 0, ids(2)],
        "index_add": [table, 0, ids(2), ones(2, 4)],
        "index_copy": [table, 0, ids(2), ones(2, 4)],
        "index_fill.int_Scalar": [table, 0, ids(2), 1.0],
        "scatter.src": [table, 0, ids(2, 4), ones(2, 4)],
        "scatter.value": [table, 0, ids(2, 4), 1.0],
        "scatter_add": [table, 0, ids(2, 4), ones(2, 4)],
        "scatter_reduce.two": [table, 0, ids(2, 4), ones(2, 4), "sum"],
        "select_scatter": [table, ones(4), 0, 1],
        "slice_scatter": [table, ones(2, 4), 0, 0, 2, 1],
        "take": [table, ids(5)],
        "take_along_dim": [table, ids(2, 4), 0],
        "masked_select": [table, table > 0],
        "masked_scatter": [table, table > 0, ones(12)],
        "masked_fill.Scalar": [table, table > 0, 1.0],
        "one_hot": [ids(2, 5), 3],
        "bucketize.Tensor": [table, ones(5)],
        "searchsorted.Tensor": [ones(5), table],
        "narrow": [table, 0, 1, 1],
        "permute": [image, [0, 2, 1, 3]],
        "split.Tensor": [table, 2, 0],
        "split_with_sizes": [table, [1, 2], 0],
        "unfold": [image, 2, 3, 1],
        "pad_sequence": [[ones(2, 4), ones(3, 4)], True, 0.0],
        "einsum": ["ij,jk->ik", [table, ones(4, 2)]],
        "linear": [table, ones(5, 4), ones(5)],
        "matmul": [table, ones(4, 2)],
        "addmm": [ones(3, 2), table, ones(4, 2)],
        "baddbmm": [ones(2, 3, 5), ones(2, 3, 4), ones(2, 4, 5)],
        "bmm": [ones(2, 3, 4), ones(2, 4, 5)],
        "mv": [table, ones(4)],
        "cdist": [ones(2, 3, 4), ones(2, 5, 4), 2.0, None],
        "cross": [ones(2, 3), ones(2, 3), 1],
        "tensordot": [table, ones(4, 2), [1], [0]],
        "scaled_dot_product_attention": [ones(2, 4, 6, 8), ones(2, 4, 6, 8), ones(2, 4, 6, 8), None, 0.0, False],
        "batch_norm": [image, ones(4), ones(4), ones(4), ones(4), False, 0.1, 1e-5, False],
        "instance_norm": [image, ones(4), ones(4), None, None, True, 0.1, 1e-5, False],
        "group_norm": [image, 2, ones(4), ones(4), 1e-5, False],
        "native_group_norm": [image, ones(4), ones(4), 2, 4, 36, 2, 1e-5],
        "layer_norm": [table, [4], ones(4), ones(4), 1e-5, False],
        "native_layer_norm": [table, [4], ones(4), ones(4), 1e-5],
        "rms_norm": [table, [4], ones(4), 1e-5],
        "prelu": [image, ones(4)],
        "channel_shuffle": [image, 2],
        "pixel_shuffle": [image, 2],
        "topk": [table, 2, 1, True, True],
        "kthvalue": [table, 2, 1, False],
        "repeat_interleave.self_int": [table, 2, 0],
        "linspace": [0.0, 1.0, 5],
    }
    return {f"aten.{name}" + ("" if "." in name else ".default"): args for name, args in found.items()}


def tensor(rng: random.Random) -> Tensor:
    dtype, shape = rng.choice((*aten.DTYPES, *[torch.float32] * 6, *[torch.int64] * 3)), rng.choice(SHAPES)
    if dtype.is_floating_point:
        x = torch.randn(shape) if rng.random() < 0.7 else torch.full(shape, rng.choice(REALS), dtype=torch.float64)
    else:
        x = (
            torch.randint(-3, 6, shape)
            if rng.random() < 0.6
            else torch.full(shape, rng.choice(INTS), dtype=torch.int64)
        )
    x = x.to(dtype)
    return x.transpose(0, -1)[..., ::2] if x.ndim > 1 and rng.random() < 0.2 else x


def value(rng: random.Random, kind: str) -> Any:
    """Return something of a kind that a schema names."""
    if kind in MANY:
        return [value(rng, MANY[kind]) for _ in range(rng.randrange(6))]
    if kind.startswith("Optional["):
        return None if rng.random() < 0.4 else value(rng, kind.removeprefix("Optional[")[:-1])
    number = rng.choice(INTS[:9]) if rng.random() < 0.75 else rng.choice(INTS)
    if kind == "Tensor":
        return tensor(rng)
    if kind == "number":
        return rng.choice((number, rng.choice(REALS), True))
    simple: dict[str, Any] = {
        "int": number,
        "float": rng.choice(REALS),
        "bool": rng.random() < 0.5,
        "str": rng.choice(TEXTS),
        "ScalarType": rng.choice(aten.DTYPES),
        "Layout": torch.strided,
        "Device": torch.device("cpu"),
        "MemoryFormat": rng.choice(LAYOUTS),
    }
    return simple[kind]


def other(rng: random.Random, found: Any) -> Any:
    """Return something that is a little unlike an argument that fits."""
    if isinstance(found, Tensor) and rng.random() < 0.6:
        if not found.is_floating_point() or rng.random() < 0.2:
            number = rng.choice(REALS if found.is_floating_point() else INTS)
            return torch.full(
                found.shape, number, dtype=torch.float64 if found.is_floating_point() else torch.int64
            ).to(found.dtype)
        if not found.ndim:
            return found.double()
        axis = rng.randrange(found.ndim)
        shorter = found.narrow(axis, 0, max(0, found.shape[axis] - 1))
        return rng.choice((found[:0], shorter, torch.cat([found, found], axis), found.double()))
    if isinstance(found, list) and found and rng.random() < 0.8:
        place = rng.randrange(len(found))
        return [*found[:place], *([other(rng, found[place])] if rng.random() < 0.7 else []), *found[place + 1 :]]
    if isinstance(found, bool):
        return not found
    if isinstance(found, int | float) and rng.random() < 0.9:
        return rng.choice(INTS)
    return rng.choice((tensor(rng), rng.choice(INTS), [rng.choice(INTS)], None, rng.choice(TEXTS)))


def attempt(operation: OpOverload, args: list[Any]) -> bool:
    """Call an operation as a loaded graph would; tell whether it took the arguments."""
    schema = operation._schema.arguments
    positional = [given for given, a in zip(args, schema, strict=False) if not a.kwarg_only]
    named = {a.name: given for given, a in zip(args, schema, strict=False) if a.kwarg_only}
    try:
        aten.check(operation, positional, named)
        aten.guard(operation, positional)
        found = operation(*positional, **named)
        for result in found if isinstance(found, list | tuple) else [found]:
            if isinstance(result, Tensor) and result.numel() < 1 << 20:
                result.clone()
    except (RuntimeError, ValueError, TypeError, IndexError, OverflowError, MemoryError, AttributeError):
        return False
    return True


def main(tries: int, names: list[str]) -> None:
    """Call every operation, or those named, and print each name first."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    fitting = cases()
    for name in names or aten.names():
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()
        rng, operation = random.Random(name), aten.find(name)
        torch.manual_seed(0)
        kinds = [str(argument.real_type) for argument in operation._schema.arguments]
        for _ in range(tries):
            attempt(operation, [value(rng, kind) for kind in kinds])
        if name in fitting:
            assert attempt(operation, fitting[name]), name
            for _ in range(10 * tries):
                args = list(fitting[name])
                for _ in range(rng.choice((1, 1, 2))):
                    place = rng.randrange(len(args))
                    args[place] = other(rng, args[place])
                attempt(operation, args)
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
