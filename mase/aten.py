"""Which ATen operations a saved graph may call: those without side effects that check what they are given.

A file may come from anyone. An operation stands here if it reads its arguments alone, writes nothing, draws no random
numbers, and refuses every argument that does not fit with an error (`tests/test_aten.py` calls each with thousands of
unfit ones). So there is none that takes strides or storage (``as_strided``, ``set_``), none that trusts indices
(``_embedding_bag``, ``max_unpool2d``, backward functions), none that prints, reads a file, or calls LAPACK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._ops import OpOverload

ELEMENTWISE = """
abs absolute acos acosh add addcdiv addcmul arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2
atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp clamp_max
clamp_min clip copysign cos cosh deg2rad div divide elu eq erf erfc erfinv exp exp2 expm1 fill fix float_power floor
floor_divide fmod frac ge gelu glu greater greater_equal gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot
isclose isfinite isinf isnan isneginf isposinf le leaky_relu lerp less less_equal log log10 log1p log2 log_sigmoid
logaddexp logaddexp2 logical_and logical_not logical_or logical_xor logit lt masked_fill maximum minimum mish mul
multiply nan_to_num ne neg negative not_equal positive pow prelu rad2deg reciprocal relu relu6 remainder round rsqrt
rsub selu sgn sigmoid sign signbit silu sin sinc sinh softplus softshrink sqrt square sub subtract tan tanh
threshold true_divide trunc where xlogy __and__ __or__ __xor__
"""
REDUCTIONS = """
all amax amin aminmax any argmax argmin argsort count_nonzero cummax cummin cumprod cumsum kthvalue linalg_vector_norm
logcumsumexp logsumexp max mean median min nanmean nanmedian nansum norm prod softmax log_softmax _softmax _log_softmax
sort std std_mean sum topk var var_mean
"""
LAYOUTS = """
alias atleast_1d atleast_2d atleast_3d broadcast_tensors broadcast_to cat channel_shuffle chunk clone column_stack
concat concatenate constant_pad_nd contiguous detach diagonal diag_embed diff expand expand_as flatten flip fliplr
flipud hstack im2col lift_fresh_copy mT matrix_H meshgrid moveaxis movedim narrow numpy_T pad pad_sequence permute
pixel_shuffle pixel_unshuffle ravel reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
replication_pad1d replication_pad2d replication_pad3d reshape reshape_as roll rot90 select select_scatter slice
slice_scatter split split_with_sizes squeeze stack swapaxes swapdims t tensor_split tile transpose tril triu unbind
unflatten unfold unsqueeze unsafe_chunk unsafe_split unsafe_split_with_sizes view view_as vstack
"""
READERS = """
bucketize embedding gather index index_add index_copy index_fill index_put index_select masked_scatter masked_select
nonzero one_hot scatter scatter_add scatter_reduce searchsorted take take_along_dim
"""
PRODUCTS = """
addbmm addmm addmv baddbmm bmm cdist conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
convolution cosine_similarity cross dot einsum gru gru_cell inner kron linalg_cross linear lstm lstm_cell matmul mm mv
outer rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell scaled_dot_product_attention tensordot
"""
WINDOWS = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d _adaptive_avg_pool2d
_adaptive_avg_pool3d avg_pool1d avg_pool2d avg_pool3d grid_sampler grid_sampler_2d max_pool1d max_pool2d max_pool3d
max_pool2d_with_indices max_pool3d_with_indices upsample_bicubic2d upsample_bilinear2d upsample_linear1d
upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
"""
NORMS = """
batch_norm group_norm instance_norm layer_norm native_group_norm native_layer_norm rms_norm dropout
"""
MAKERS = """
arange eye full full_like linspace new_full new_ones new_zeros ones ones_like scalar_tensor zeros zeros_like
sym_numel sym_size to _to_copy type_as
"""
ALLOWED = frozenset(f"{ELEMENTWISE}{REDUCTIONS}{LAYOUTS}{READERS}{PRODUCTS}{WINDOWS}{NORMS}{MAKERS}".split())
NUMBERS = ("sym_numel", "sym_size")  # give a number; all others give tensors
LEFT_OUT = (
    *(f"{kind}.data" for kind in ("gru", "lstm", "rnn_relu", "rnn_tanh")),  # trust the sizes of packed sequences
    *("repeat_interleave.Tensor", "repeat_interleave.self_Tensor"),  # a number in a tensor sizes the result
    "index.Tensor_hacked_twin",
)  # forms of what is allowed otherwise
OFF = ("train", "training")  # flags under which an operation draws numbers or writes into its arguments
KINDS: Mapping[str, type] = {"ScalarType": torch.dtype, "Layout": torch.layout, "MemoryFormat": torch.memory_format}
DTYPES = tuple(
    getattr(torch, name)
    for name in ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")
)
DEVICES = ("cpu", "cuda")
FAR = ("start", "end")  # arguments that stand for "to the end" where they are large
LONGEST = 1 << 31  # of sizes, axes, windows: beyond, products of them overflow unseen
LARGEST = 1 << 32  # elements of one result
MOST_LAYERS = 1024  # of a recurrent operation


def find(name: str) -> OpOverload:
    """Return the operation of a name such as ``aten.add.Tensor``.

    Raises:
        ValueError: it is not one that a saved graph may call.
    """
    room, _, rest = name.partition(".")
    base, _, overload = rest.partition(".")
    found = getattr(getattr(torch.ops.aten, base), overload, None) if room == "aten" and base in ALLOWED else None
    if not isinstance(found, OpOverload) or not is_allowed(found):
        raise ValueError(f"operation {name[:80]!r} is not among those that a saved graph may call")
    return found


def is_allowed(operation: OpOverload) -> bool:
    """Tell whether a saved graph may call an operation."""
    packet, schema = operation._schema.name.removeprefix("aten::"), operation._schema
    if not torch._C._dispatch_has_kernel(operation.name()):
        return False  # TorchScript's own, which check nothing
    if packet not in ALLOWED or f"{packet}.{operation._overloadname}" in LEFT_OUT or schema.is_mutable:
        return False
    given = [str(result.type) for result in schema.returns]
    return packet in NUMBERS or all(kind in ("Tensor", "List[Tensor]") for kind in given)


def check(operation: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments under which an allowed operation is not harmless.

    Raises:
        ValueError: a flag of training is set, a dtype, layout or device is not an ordinary one, or a size is far off.
    """
    given = {**dict(zip([a.name for a in operation._schema.arguments], args, strict=False)), **kwargs}
    for argument in operation._schema.arguments:
        value, kind = given.get(argument.name), KINDS.get(str(argument.real_type).removeprefix("Optional[").strip("]?"))
        if value is None:
            continue
        if kind is not None and not isinstance(value, kind):
            raise ValueError(f"{operation}: {argument.name} is {type(value).__name__}; a {kind.__name__} is needed")
        if (argument.name in OFF and value is not False) or (argument.name == "dropout_p" and value != 0):
            raise ValueError(f"{operation}: {argument.name} is {str(value)[:40]}; a saved graph does not train")
        if argument.name not in FAR and _greatest(value) > LONGEST and "int" in str(argument.real_type):
            raise ValueError(f"{operation}: {argument.name} is {str(value)[:40]}; at most {LONGEST} either way")
    if given.get("num_classes", 0) == -1:
        raise ValueError(f"{operation}: num_classes is -1; a number in a tensor would size the result")
    if given.get("use_input_stats", False) is not False and given.get("running_mean") is not None:
        raise ValueError(f"{operation}: writes into its running mean; a saved graph does not train")


def _greatest(value: Any) -> int:
    """Return the greatest magnitude of whole numbers in an argument."""
    if isinstance(value, list | tuple):
        return max(map(_greatest, value), default=0)
    return abs(value) if isinstance(value, int) else 0


GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def guard(operation: Any, args: Sequence[Any]) -> None:
    """Refuse tensors that do not fit each other, of the operations that trust them: recurrent layers.

    Raises:
        ValueError: says which tensor is at fault.
    """
    name = operation._schema.name.removeprefix("aten::") if isinstance(operation, OpOverload) else ""
    if name not in GATES:
        return
    x, states, weights, biases, layers, _, _, both, first = args
    ways, states = 2 if both else 1, states if name == "lstm" else [states]
    each = 4 if biases else 2
    if x.ndim != 3 or not x.is_floating_point() or len(states) != (2 if name == "lstm" else 1):
        raise ValueError(f"{name}: input of shape {tuple(x.shape)}; allowed are three axes of real numbers")
    if not 1 <= layers <= MOST_LAYERS or len(weights) != layers * ways * each:
        raise ValueError(f"{name}: {len(weights)} weights for {layers} layers; {each} a layer and direction are needed")
    hidden, batch = states[0].shape[-1] if states[0].ndim else 0, x.shape[0 if first else 1]
    wanted: list[tuple[int, ...]] = [(layers * ways, batch, hidden)] * len(states)
    gates, inputs = GATES[name] * hidden, [x.shape[-1], *[ways * hidden] * (layers - 1)]
    for size in inputs:
        wanted += [(gates, size), (gates, hidden), (gates,), (gates,)][:each] * ways
    for place, (tensor, shape) in enumerate(zip([*states, *weights], wanted, strict=True)):
        if tuple(tensor.shape) != shape or tensor.dtype != x.dtype:
            found = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise ValueError(f"{name}: state or weight {place} is {found}; {shape} {x.dtype} is needed")


def ordinary(value: torch.dtype | torch.layout | torch.memory_format | torch.device) -> bool:
    """Tell whether a dtype is one of plain numbers, a layout the dense one, a device one that holds numbers."""
    if isinstance(value, torch.device):
        return value.type in DEVICES
    if isinstance(value, torch.dtype):
        return value in DTYPES
    return value is torch.strided or isinstance(value, torch.memory_format)


def names() -> list[str]:
    """Return the names of all operations that a saved graph may call, in every form."""
    packets = [getattr(torch.ops.aten, base) for base in sorted(ALLOWED)]
    found = [getattr(packet, form) for packet in packets for form in packet.overloads()]
    return [str(operation) for operation in found if is_allowed(operation)]
