"""What every number format is: a frozen description, its parameters, its codes (docs/formats.md)."""

from __future__ import annotations

import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, wraps
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, cast

import torch
from torch import Tensor

from mase.doors.json_text import repr_of
from mase.errors import FormatError, UnsupportedOp
from mase.formats.chunks import CHUNK, Scratch, chunks
from mase.registry import Registry

if TYPE_CHECKING:
    from mase.formats.grid import Grid
    from mase.formats.packed import Held

Compat = Literal["", "mase", "microxcaling", "torchao", "brevitas", "qera"]
NanPolicy = Literal["error", "encode"]


@dataclass(frozen=True, eq=False)
class QuantParams:
    """Hold what calibration finds for one tensor; a format uses the fields it needs.

    Args:
        scale: real weight of one code, float64; 0-d a tensor, ``[channels]`` on ``axis``, or shaped as the tensor with
            ``axis`` counting groups.
        zero_point: code of real zero, int64, shaped as ``scale``; None means 0.
        base: least exponent of an exponent window, int64, 0-d.
        axis: axis along which blocks, groups or channels lie.
        offset: real value of code 0, float64, shaped as ``scale``; None means 0.
        axes: axes on which the dimensions of a tile lie; None means those that end at ``axis``.
        seed: of stochastic rounding; give each step of a training its own.
        threshold: greatest magnitude that becomes zero, float64, shaped as ``scale``; of ternary numbers.
        packed: the container that holds the tensor, of weights in several pieces.
    """

    scale: Tensor | None = None
    zero_point: Tensor | None = None
    base: Tensor | None = None
    axis: int = -1
    offset: Tensor | None = None
    axes: tuple[int, ...] | None = None
    seed: int = 0
    threshold: Tensor | None = None
    packed: Held | None = None


@dataclass(frozen=True, eq=False)
class Code:
    """Hold the integers that stand for a tensor.

    Args:
        mantissa: one integer an element, shaped as the tensor: the value for integer formats, the stored bit pattern
            for floating, logarithmic and table formats.
        exponent: one (true, unbiased) exponent a block, or None; the blocked axis counts blocks.
        scale: bit pattern of one scale a block where that is not a power of two, or None; shaped as ``exponent``.
    """

    mantissa: Tensor
    exponent: Tensor | None = None
    scale: Tensor | None = None

    def on_stream(self) -> Code:
        """Return the same as streams carry it: the bit pattern of a block's scale stands in place of an exponent."""
        return self if self.scale is None else Code(self.mantissa, self.scale)

    @property
    def scales(self) -> Tensor | None:
        """Bit patterns of scales of blocks, also of what a stream carried."""
        return self.exponent if self.scale is None else self.scale


class Axes(NamedTuple):
    """Axes of a tensor of weights: ``channel`` counts the outputs, products are summed along ``sums``."""

    channel: int = 0
    sums: int = -1


class Packed(NamedTuple):
    """Weights as elements times one factor for each block of them along the axis of the parameters.

    Args:
        grid: of the elements, which is plain. elements: int64, shaped as the weights.
        block: elements that share a factor. factor: int64, at least 0, one a block. bits: of a factor.
    """

    grid: Grid
    elements: Tensor
    block: int
    factor: Tensor
    bits: int


class Constants(NamedTuple):
    """Weights as integers: their plain grid, their codes on it, and a real scale if the grid has one.

    Args:
        packed: the same as elements with factors, where blocks share those.
    """

    grid: Grid
    code: Code
    scale: Tensor | None
    packed: Packed | None = None


@dataclass(frozen=True)
class Layout:
    """Say which bits are stored, most significant first, for bit pictures and for counting.

    Args:
        element: ``(name, bits)`` of each field of an element.
        shared: ``(name, bits)`` of each field that a block, group, channel or tensor shares.
        sharing: who shares them, such as ``block of 32``; empty when nothing is shared.
    """

    element: tuple[tuple[str, int], ...]
    shared: tuple[tuple[str, int], ...] = ()
    sharing: str = ""


# rounds contiguous float32, its first argument, into the second; False: only the exact way is right for these data, as
# where a number of the format is beyond float32
Kernel = Callable[[Tensor, Tensor, Scratch], bool]
GridOf = Callable[[Any, "QuantParams", str], "Grid"]
Pieces = Iterator[tuple[Tensor, Tensor, QuantParams]]
Words = Mapping[str, tuple[str, object]]  # a word of the text form -> the field and the value that it sets

ROUNDING_WORDS: Words = {
    "up": ("rounding", "half_up"),
    "away": ("rounding", "half_away"),
    "floor": ("rounding", "floor"),
    "ceil": ("rounding", "ceil"),
    "zero": ("rounding", "zero"),
    "stochastic": ("rounding", "stochastic"),
}
NAN_WORDS: Words = {"nan": ("nan", "encode")}


def compat_words(*tools: str) -> Words:
    """Return the words that switch a format to what a published tool does."""
    return {tool: ("compat", tool) for tool in tools}


def text_form(head: str) -> re.Pattern[str]:
    """Return the pattern of a whole text form: ``head``, then words such as ``_floor``."""
    return re.compile(head + r"(?P<words>(?:_[a-z0-9]+)*)", re.ASCII)  # digits are 0..9, not those of other scripts


def _kept(grid: GridOf) -> GridOf:
    """Keep what a method finds with the parameters that it was found for, which never change: a search asks often."""

    @wraps(grid)
    def found(self: Any, params: QuantParams, where: str) -> Grid:  # Any: of each subclass
        kept, key = params.__dict__.setdefault("_grids", {}), (grid, self)
        if key not in kept:
            kept[key] = grid(self, params, where)
        result: Grid = kept[key]
        return result

    return found


class Format(ABC):
    """A number format: static, hashable, with a text form that round-trips.

    Subclasses are frozen dataclasses, one file each, and check their fields in ``__post_init__``.
    """

    calibrated: ClassVar[bool] = True  # data gives it parameters; False: its text form says all
    ebnf: ClassVar[str]  # the head of the text form, as docs/formats.md prints it
    grammar: ClassVar[re.Pattern[str]]  # matches the whole text form
    words: ClassVar[Words] = {}  # what may follow the head, each after an underscore
    chosen: ClassVar[bool] = False  # holds values that a method chose, and has no rounding of its own

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("grid", "weight_grid"):
            if name in cls.__dict__:
                setattr(cls, name, _kept(cls.__dict__[name]))

    @classmethod
    @abstractmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        """Build the format from a full match of ``grammar``."""

    @abstractmethod
    def __str__(self) -> str:
        """Return the text form, defaults left out."""

    @abstractmethod
    def calibrate(self, x: Tensor, axis: int = -1) -> QuantParams:
        """Choose parameters for data ``x``; ``axis`` carries the blocks, the groups or the channels."""

    def along(self, axes: Axes) -> int:
        """Return the axis of weights that the format works along: groups and blocks lie in the order of summation."""
        return axes.sums

    @abstractmethod
    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        """Return the codes nearest to ``x`` (any float dtype); without ``params`` calibrate on ``x``.

        Raises:
            FormatError: ``x`` is not floating point or holds NaN.
        """

    @abstractmethod
    def decode(self, code: Code, params: QuantParams | None = None) -> Tensor:
        """Return the real values of ``code`` as float64, exactly."""

    @abstractmethod
    def code_range(self) -> tuple[int, int]:
        """Return the least and the greatest mantissa code that ``encode`` gives."""

    @abstractmethod
    def bits(self, shape: Sequence[int], axis: int = -1) -> float:
        """Return stored bits an element of a tensor of this shape, shared fields counted."""

    @abstractmethod
    def sv_params(self) -> Mapping[str, int]:
        """Return the parameters under which RTL knows the format."""

    @abstractmethod
    def limits(self, x: Tensor, params: QuantParams) -> tuple[Tensor, Tensor]:
        """Return the least and the greatest value that ``x`` can round to, each broadcastable to ``x``."""

    @abstractmethod
    def layout(self) -> Layout:
        """Return the stored fields."""

    @abstractmethod
    def values(self) -> Tensor:
        """Return the value of every element code at scale 1, from the least code to the greatest, float64."""

    def grid(self, params: QuantParams, where: str) -> Grid:
        """Return how integer arithmetic on chip sees the codes; a format that has hardware says it here.

        Args:
            params: of the tensor. where: for errors.

        Raises:
            UnsupportedOp: hardware cannot compute with the format, or with these fields of it; says what is allowed.
        """
        streams = [name for name, cls in FORMATS.items() if cls.grid is not Format.grid]
        constants = [name for name, cls in FORMATS.items() if cls.weight_grid is not Format.weight_grid]
        if type(self).weight_grid is not Format.weight_grid:
            raise UnsupportedOp(f"{where}: format {self} is for weights alone; allowed here are {listed(streams)}")
        allowed = listed(name for name in FORMATS if name in streams + constants)
        raise UnsupportedOp(f"{where}: format {self} has no hardware; allowed are {allowed}")

    def weight_grid(self, params: QuantParams, where: str) -> Grid:
        """Return the grid of the integers that weights become, as :meth:`constants` does; see :meth:`grid`."""
        return self.grid(params, where).plain

    def constants(self, x: Tensor, params: QuantParams, where: str) -> Constants:
        """Return weights as integers."""
        grid = self.grid(params, where)
        code = grid.decoded(self.encode(x, params), params.axis)
        return Constants(grid.plain, code, params.scale if grid.scaled else None)

    def quantize(self, x: Tensor, params: QuantParams | None = None, out: Tensor | None = None) -> Tensor:
        """Return ``decode(encode(x))`` in the dtype of ``x``; the gradient passes where ``x`` is not clipped.

        A number beyond the dtype becomes its greatest: what is finite stays finite.

        Args:
            x: any float dtype, shape and strides.
            params: from ``calibrate``; without them ``x`` is its own calibration data.
            out: takes the result, shaped as ``x``, of its dtype, apart from it in memory; for inference only.

        Raises:
            FormatError: as ``encode``, or ``out`` does not fit.
        """
        params = params if params is not None else self.calibrate(x.detach())
        if not (x.requires_grad and torch.is_grad_enabled()):
            return self._values(x, params, out)
        if out is not None:
            raise FormatError(f"{self}: quantize with out= has no gradient; leave out= away or detach the data")
        # autograd.Function.apply is untyped in torch
        return cast("Tensor", _StraightThrough.apply(x, self, params))  # type: ignore[no-untyped-call]

    def _values(self, x: Tensor, params: QuantParams, out: Tensor | None = None) -> Tensor:
        if not x.is_floating_point():
            raise FormatError(f"{self}: data is {x.dtype}; a floating-point tensor is needed")
        y = torch.empty_like(x) if out is None else self._fits(out, x)
        emulated = self._emulate(x, params)
        if emulated is not None:
            return y.copy_(emulated)
        with torch.no_grad():
            if not self._splits():
                return y.copy_(narrowed(self.decode(self.encode(x, params), params), y.dtype))
            return self._on_gpu(x, y, params) if x.is_cuda else self._on_cpu(x, y, params)

    def _on_cpu(self, x: Tensor, y: Tensor, params: QuantParams) -> Tensor:
        """Round piece by piece, each by the kernel if it can."""
        scratch, kernel, prepared = Scratch(), None, None
        for source, target, local in self._pieces(x, y, params, CHUNK):
            if local is not prepared:
                kernel, prepared = None if x.dtype == torch.float64 else self._kernel(local), local
            if kernel is None or not _narrow(kernel, source, target, scratch):
                if bool(torch.isnan(source).any()):
                    refuse(x, self, self._nan)  # counts over all of x
                target.copy_(narrowed(self._exact(source.to(torch.float64), local), target.dtype))
        return y

    def _on_gpu(self, x: Tensor, y: Tensor, params: QuantParams) -> Tensor:
        """Round as a whole by the definition in float64, compiled into few kernels where that pays."""
        refuse(x, self, self._nan)
        exact = compiled(self) if x.numel() >= COMPILE_FROM and find_spec("triton") else self._exact
        for source, target, local in self._pieces(x, y, params, max(1, x.numel())):
            target.copy_(narrowed(exact(source.to(torch.float64), local), target.dtype))
        return y

    def _fits(self, out: Tensor, x: Tensor) -> Tensor:
        if out.shape != x.shape or out.dtype != x.dtype or out.data_ptr() == x.data_ptr() != 0:
            found = f"{out.dtype} {tuple(out.shape)}"
            raise FormatError(f"{self}: out is {found}; {x.dtype} {tuple(x.shape)} in other memory is needed")
        return out

    def _splits(self) -> bool:
        """Tell whether a tensor may be rounded piece by piece; random draws belong to the whole tensor."""
        return getattr(self, "rounding", "even") != "stochastic"

    def _pieces(self, x: Tensor, y: Tensor, params: QuantParams, limit: int) -> Pieces:
        """Yield matching views of ``x`` and ``y``, at most ``limit`` elements, with the parameters of that part."""
        if x.is_contiguous() and y.is_contiguous():
            x, y = x.view(-1), y.view(-1)
        for source, target in chunks((x, y), limit):
            yield source, target, params

    def _emulate(self, x: Tensor, params: QuantParams) -> Tensor | None:
        """Return what a published tool gives where that has values but no codes, else None."""
        return None

    @abstractmethod
    def _exact(self, x: Tensor, params: QuantParams) -> Tensor:
        """Return what a piece decodes to, float64; ``x`` is float64 and was checked."""

    @property
    def _nan(self) -> str:
        return str(getattr(self, "nan", "error"))

    def _kernel(self, params: QuantParams) -> Kernel | None:
        """Return the fast way to round pieces that have these parameters, or None."""
        return None

    def _suffix(self) -> str:
        """Return the words of the text form that say which fields are not at their defaults."""
        defaults = {f.name: f.default for f in fields(self)}  # type: ignore[arg-type]  # subclasses are dataclasses
        said = {name for name, default in defaults.items() if getattr(self, name) != default}
        return "".join(
            f"_{word}" for word, (name, value) in self.words.items() if name in said and getattr(self, name) == value
        )

    @classmethod
    def _options(cls, match: re.Match[str]) -> dict[str, Any]:  # Any: values go to fields of many types
        """Return the fields that the words of a text form set."""
        found: dict[str, Any] = {}
        for word in match["words"].split("_")[1:]:
            if word not in cls.words:
                allowed = ", ".join(f"_{w}" for w in cls.words) or "none"
                raise FormatError(f"format {match[0]!r}: unknown word _{word}; allowed after the head: {allowed}")
            name, value = cls.words[word]
            if name in found:
                raise FormatError(
                    f"format {match[0]!r}: {name} is given twice, the second time by _{word}; give it once"
                )
            found[name] = value
        return found


class _StraightThrough(torch.autograd.Function):
    """Round forward; backward is the derivative of clamp(x, low, high), parameters held fixed."""

    @staticmethod
    # Any: the context is torch's, untyped
    def forward(ctx: Any, x: Tensor, fmt: Format, params: QuantParams) -> Tensor:
        low, high = fmt.limits(x, params)
        ctx.save_for_backward((x >= low) & (x <= high))
        return fmt._values(x.detach(), params)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None


SHARED = ("scale", "zero_point", "base", "offset", "threshold")  # the tensors of QuantParams
COMPILE_FROM = 1 << 16  # elements from which compiling pays


def listed(names: Iterable[str]) -> str:
    """Return names as a sentence has them."""
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last


FORMATS: Registry[type[Format]] = Registry("format", "mase.formats")

MAX_TEXT = 2000  # characters of a text form; a table of values may be long
MOST_DIGITS = 150  # of a number in a text form; a float32 written out has fewer
LONG = re.compile(rf"[0-9]{{{MOST_DIGITS + 1},}}")


def parse(text: str) -> Format:
    """Return the format that a text form names, such as ``fixed8.4`` or ``mxint8b16e4``.

    Raises:
        FormatError: no format has this form, or a field is impossible.
    """
    check_text(text)
    whole = _whole(text)
    if whole is not None:
        return whole
    raise FormatError(f"format {text[:60]!r}: {_trailing(text) or _unknown(text)}")


def check_text(text: object) -> None:
    """Refuse what no text form can be, before anything is read in it: a configuration may hold anything.

    Raises:
        FormatError: it is not text, is too long, or holds a longer number than any format has.
    """
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        found = f"{len(text)} characters" if isinstance(text, str) else repr_of(text)
        raise FormatError(f"format: {found} is not a text form; allowed is text of at most {MAX_TEXT} characters")
    if (found_long := LONG.search(text)) is not None:
        raise FormatError(f"format {text[:60]!r}: a number of {len(found_long[0])} digits; at most {MOST_DIGITS}")


def _whole(text: str) -> Format | None:
    for cls in _classes():
        match = cls.grammar.fullmatch(text)
        if match:
            return cls.from_match(match)
    return None


def _trailing(text: str) -> str:
    """Return what is wrong when a text form is followed by something else."""
    for end in range(len(text) - 1, 0, -1):
        if any(cls.grammar.fullmatch(text, 0, end) for cls in _classes()):
            return f"{text[end:][:40]!r} follows {text[:end][:40]!r}; allowed is nothing, or words such as _floor"
    return ""


def _unknown(text: str) -> str:
    known = examples()
    near = difflib.get_close_matches(text, known, n=1, cutoff=0.6)
    return (
        f"not a text form; did you mean {near[0]}?"
        if near
        else f"not a text form; allowed are forms such as {', '.join(known)}"
    )


def _classes() -> list[type[Format]]:
    return [FORMATS[name] for name in FORMATS]


def examples() -> list[str]:
    """Return one text form of each registered format."""
    return [str(cls()) for cls in _classes()]


def checked(x: Tensor, fmt: Format, nan: str = "error") -> Tensor:
    """Return ``x`` as float64 after refusing integers and, unless ``nan`` is ``encode``, NaN."""
    refuse(x, fmt, nan)
    return x.to(torch.float64)


def refuse(x: Tensor, fmt: Format, nan: str = "error") -> None:
    """Raise FormatError if ``x`` is not floating point or, unless ``nan`` is ``encode``, holds NaN."""
    if not x.is_floating_point():
        raise FormatError(f"{fmt}: data is {x.dtype}; a floating-point tensor is needed")
    lost = int(torch.isnan(x).sum()) if nan == "error" else 0
    if lost:
        raise FormatError(f"{fmt}: data holds NaN at {lost} of {x.numel()} places; NaN has no code")


@lru_cache(maxsize=256)
def compiled(fmt: Format) -> Callable[[Tensor, QuantParams], Tensor]:
    """Return ``fmt._exact`` through torch.compile: the same operations, so the same bits, in fewer passes."""

    def exact(x: Tensor, tensors: Sequence[Tensor | None]) -> Tensor:
        return fmt._exact(x, QuantParams(**dict(zip(SHARED, tensors, strict=True))))  # type: ignore[arg-type]

    exact.__code__ = exact.__code__.replace()  # torch counts recompilations by code object, and few are allowed
    fused = torch.compile(exact, dynamic=True)

    def run(x: Tensor, params: QuantParams) -> Tensor:
        tensors = [getattr(params, name) for name in SHARED]
        return fused(x, [t if t is None else t.to(x.device) for t in tensors])

    return run


def refuse_codes(fmt: Format, compat: str) -> None:
    """Raise FormatError where a published tool is reproduced in values alone."""
    if compat == "mase":
        raise FormatError(f"{fmt}: compat is 'mase', which has values but no codes; allowed here is quantize")


def within(fmt: str, field: str, value: object, low: int, high: int) -> None:
    """Raise FormatError unless ``value`` is an integer and ``low <= value <= high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FormatError(f"{fmt}: {field} is {repr_of(value)}; allowed is {low}..{high}")


def one_of(fmt: str, field: str, value: str, allowed: Sequence[str]) -> None:
    """Raise FormatError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise FormatError(f"{fmt}: {field} is {value!r}; allowed is {', '.join(repr(a) for a in allowed)}")


def pow2(exponent: Tensor) -> Tensor:
    """Return 2**exponent in float64, exact for -1022 <= exponent <= 1023 (built from bits, not from ``pow``)."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def floor_log2(x: Tensor) -> Tensor:
    """Return floor(log2(x)) of positive float64 values as int64, from the bits; subnormals give -1023."""
    return ((x.view(torch.int64) >> 52) & 0x7FF) - 1023


def narrowed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float64 values in a dtype; finite ones stay finite."""
    most = torch.finfo(dtype).max
    if dtype == torch.float64 or not x.numel() or bool(x.abs().amax() <= most):
        return x.to(dtype)
    return torch.where(torch.isfinite(x), x.clamp(-most, most), x).to(dtype)


def _narrow(kernel: Kernel, source: Tensor, target: Tensor, scratch: Scratch) -> bool:
    """Run a kernel on contiguous float32, copied there where the data are something else."""
    x = source if _plain(source) else scratch.take(0, source.shape).copy_(source)
    out = target if _plain(target) else scratch.take(1, source.shape)
    done = kernel(x, out, scratch)
    if done and out is not target:
        if target.dtype != torch.float32:  # a narrower one, and what kernels give is finite
            out.clamp_(-torch.finfo(target.dtype).max, torch.finfo(target.dtype).max)
        target.copy_(out)
    return done


def _plain(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.is_contiguous()
