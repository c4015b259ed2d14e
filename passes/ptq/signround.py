"""SignRound: the rounding of every weight and the range of every group, tuned by the signs of gradients."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from mase.errors import ConfigError
from mase.formats import parse
from mase.formats.int import Int
from mase.formats.mxfp import FloatBlocks
from mase.formats.mxint import IntegerBlocks
from mase.formats.nvfp4 import ELEMENT, NVFP4
from mase.formats.packed import PackedWeight
from passes.ptq.base import METHODS, Block, Layer, Method, Stage
from passes.ptq.blockwise import Kept, Runner, batches
from passes.ptq.fields import choice, number, seeded, whole
from passes.ptq.groups import CHUNK, Groups, IntGroups, NvGroups, Steps, grouped, groups_of, searched

Keep = Literal["best", "fixed", "last"]
Recipe = Literal["default", "light", "best"]
RECIPES: Mapping[str, tuple[int, float | None]] = {"default": (200, None), "light": (50, 5e-3), "best": (1000, None)}
LEAST = {"fp16": 1e-5}  # magnitude of a scale by its type
TINY = 1e-8  # of all others
OUTLIERS = 1e-3  # of the elements of the output, that the loss leaves out
SHORTEST = 16  # unit of groups that is worked on at once
SLOW_BITS = 3  # up to which long runs take twice the step


class Tuned(Kept):
    """The weights of one layer while they are tuned: ``V`` a weight, factors a group, by sign steps.

    A group is one or several units; only where groups have no unit in common with the inputs, these are padded. All
    work is done in place, a cacheful of rows at a time.

    Args:
        groups: how the layer rounds. weight: float32 ``[outputs, inputs]``.
    """

    def __init__(self, groups: Groups, weight: Tensor) -> None:
        self.groups, (self.rows, self.inputs) = groups, weight.shape
        size, count = groups.size, groups.count
        self.unit = math.gcd(size, self.inputs) if math.gcd(size, self.inputs) >= SHORTEST else size
        self.per, self.pad = size // self.unit, -self.inputs % self.unit
        whole = torch.nn.functional.pad(weight, (0, self.pad)) if self.pad else weight
        self.w = whole.reshape(self.rows, -1, self.unit).contiguous()
        self.count, self.units = count, self.w.shape[1]
        self.v = torch.zeros_like(self.w)
        self.q = torch.empty_like(self.w)  # codes less their zero, then the values
        self.step = max(1, CHUNK // (self.units * self.unit))
        self.a, self.b = (torch.empty(self.step, self.units, self.unit) for _ in range(2))
        self.keep()

    def spread(self, shared: Tensor) -> Tensor:
        """Return one number a unit, ``[outputs, units, 1]``, of one number a group."""
        return shared if self.per == 1 else shared.repeat_interleave(self.per, 1)[:, : self.units]

    def gathered(self, x: Tensor) -> Tensor:
        """Return the sum over the units of each group, ``[outputs, groups, 1]``."""
        if self.per == 1:
            return x
        padded = torch.nn.functional.pad(x.squeeze(-1), (0, self.count * self.per - self.units))
        return padded.reshape(self.rows, self.count, self.per).sum(-1, keepdim=True)

    @property
    def bits(self) -> int:
        """Bits of an element."""
        return sum(bits for _, bits in self.groups.fmt.layout().element)

    def rounded(self) -> Tensor:
        """Return the weights now, float32, in a buffer that the next call overwrites."""
        self.prepare()
        for start in range(0, self.rows, self.step):
            self.forward(slice(start, start + self.step))
        return self._flat(self.q)

    def move(self, gradient: Tensor, lr: float) -> None:
        """Take one step against the signs of what a gradient by the weights means for the parameters."""
        for start in range(0, self.rows, self.step):
            rows = slice(start, start + self.step)
            g = gradient[rows]
            g = torch.nn.functional.pad(g, (0, self.pad)) if self.pad else g
            self.backward(rows, g.reshape(self.w[rows].shape), lr)
        self.after(lr)

    @abstractmethod
    def prepare(self) -> None:
        """Compute what groups share from their factors."""

    @abstractmethod
    def forward(self, rows: slice) -> None:
        """Write the values of some rows to ``q``."""

    @abstractmethod
    def backward(self, rows: slice, g: Tensor, lr: float) -> None:
        """Move ``v`` of some rows, and note what the gradient means for their groups; may overwrite ``q``."""

    @abstractmethod
    def after(self, lr: float) -> None:
        """Move the factors of groups."""

    def state(self) -> tuple[Tensor, ...]:
        return (self.v,)

    @abstractmethod
    def piece(self) -> PackedWeight:
        """Return the weights as they are stored."""

    def _flat(self, x: Tensor) -> Tensor:
        return x.reshape(self.rows, -1)[:, : self.inputs]


class TunedInt(Tuned):
    """Integers: one factor for the least and one for the greatest weight of a group."""

    groups: IntGroups

    def __init__(self, groups: IntGroups, weight: Tensor) -> None:
        self.signed = groups.fmt.zero == "none"
        count, self.least_step = groups.count, LEAST.get(groups.fmt.scale_type, TINY)
        self.alpha, self.beta = torch.ones(weight.shape[0], count, 1), torch.ones(weight.shape[0], count, 1)
        super().__init__(groups, weight)
        self.by_step, self.by_low = (torch.zeros(self.rows, self.units, 1) for _ in range(2))
        parts = weight.split(groups.size, 1)
        self.low = torch.stack([part.amin(1) for part in parts], 1).clamp_(max=0).unsqueeze(-1)
        self.high = torch.stack([part.amax(1) for part in parts], 1).clamp_(min=0).unsqueeze(-1)

    def state(self) -> tuple[Tensor, ...]:
        return self.v, self.alpha, self.beta

    def _steps(self) -> Tensor:
        """Return the steps of groups before they are rounded to their type."""
        n = self.groups.high - self.groups.low
        least, most = self.alpha * self.low, self.beta * self.high
        if not self.signed:
            self.floor = least
            return ((most - least) / n).clamp_(min=self.least_step)
        self.by_alpha = -least > most
        if not self.groups.fmt.full:
            return (torch.maximum(-least, most) / self.groups.high).clamp_(min=self.least_step)
        half = -self.groups.low
        step = torch.where(self.by_alpha, -least, most).div_(half).clamp_(min=self.least_step)
        return torch.where(self.by_alpha, step, -step)

    def prepare(self) -> None:
        step = self.groups.snap(self._steps().squeeze(-1)).unsqueeze(-1)
        self.exact, self.one = step, step.to(torch.float32)
        self.s, self.inverse = self.spread(self.one), self.spread(1 / self.one)
        self.sign = torch.sign(self.one)
        self.direction = self.spread(self.sign)
        if not self.signed:
            self.code = (-self.floor / self.one).round_().clamp_(self.groups.low, self.groups.high)
            self.zero = self.spread(self.code)
            self.least, self.most = self.groups.low - self.zero, self.groups.high - self.zero

    def forward(self, rows: slice) -> None:
        q = torch.addcmul(self.v[rows], self.w[rows], self.inverse[rows], out=self.q[rows])
        q.round_()
        if self.signed:
            q.clamp_(self.groups.low, self.groups.high)
        else:
            torch.clamp(q, self.least[rows], self.most[rows], out=q)
        q.mul_(self.s[rows])

    def backward(self, rows: slice, g: Tensor, lr: float) -> None:
        w, units, inner = self.w[rows], self.a[: len(g)], self.b[: len(g)]
        torch.addcmul(self.v[rows], w, self.inverse[rows], out=units)
        if not self.signed:
            units.add_(self.zero[rows])
        bounds = self.groups.low - 0.5, self.groups.high + 0.5
        torch.ops.aten.hardtanh_backward.grad_input(g, units, *bounds, grad_input=inner)  # the gradient where it passes
        by_step = torch.linalg.vecdot(self.q[rows], g) - torch.linalg.vecdot(w, inner)
        self.by_step[rows] = by_step.unsqueeze(-1)
        if not self.signed:
            outer = torch.sub(g, inner, out=units).sum(-1, keepdim=True)
            self.by_low[rows] = outer
        inner.sign_()
        if self.signed and self.groups.fmt.full:
            self.v[rows].addcmul_(inner, self.direction[rows], value=-lr)
        else:
            self.v[rows].add_(inner, alpha=-lr)

    def by_steps(self) -> Tensor:
        """Return the gradient by the steps of groups."""
        found = self.gathered(self.by_step)
        if not self.signed:
            found = found - self.gathered(self.by_low) * self.floor
        return found / self.one

    def after(self, lr: float) -> None:
        by_step = self.by_steps()
        if self.signed:
            down = torch.sign(by_step) * self.sign
            self.alpha.sub_(down * self.by_alpha * (self.low < 0), alpha=lr).clamp_(0, 1)
            self.beta.sub_(down * ~self.by_alpha * (self.high > 0), alpha=lr).clamp_(0, 1)
            return
        by_low = self.gathered(self.by_low) - by_step / (self.groups.high - self.groups.low)
        self.alpha.sub_(torch.sign(by_low * self.low), alpha=lr).clamp_(0, 1)
        self.beta.sub_(torch.sign(by_step * self.high), alpha=lr).clamp_(0, 1)

    def piece(self) -> PackedWeight:
        self.prepare()
        for start in range(0, self.rows, self.step):
            self.forward(slice(start, start + self.step))
        codes = (self.q * self.inverse).round_()  # a few bits: float32 is exact enough to name them
        codes = codes if self.signed else codes + self.zero
        steps = Steps(self.exact.squeeze(-1), None if self.signed else self.code.squeeze(-1).to(torch.int64))
        found = self.groups.piece(self._flat(codes).to(torch.int64), steps)
        return PackedWeight((self.rows, self.inputs), (found,))


class TunedFactor(TunedInt):
    """Integers in the full range whose groups have one factor of a searched step."""

    def __init__(self, groups: IntGroups, weight: Tensor, start: Tensor) -> None:
        self.start = start.to(torch.float32).unsqueeze(-1)
        super().__init__(groups, weight)

    def _steps(self) -> Tensor:
        step = self.start * self.alpha
        small = torch.copysign(torch.full_like(step, self.least_step), self.start)
        return torch.where(step.abs() < self.least_step, small, step)

    def after(self, lr: float) -> None:
        self.alpha.sub_(torch.sign(self.by_steps() * self.start), alpha=lr).clamp_(0, 2)


class TunedGrid(Tuned):
    """Elements of a grid of their own, integers or small floats, under steps that stay: ``V`` alone."""

    def __init__(self, groups: Groups, weight: Tensor, steps: Tensor) -> None:
        self.exact = steps.unsqueeze(-1)
        fmt = groups.fmt
        element = ELEMENT if isinstance(groups, NvGroups) else fmt.element if isinstance(fmt, FloatBlocks) else None
        self.least, self.top = (float(fmt.code_range()[0]), float(fmt.code_range()[1]))
        self.man, self.floor = 0, 1.0
        if element is not None:
            self.man, self.floor = element.man, 2.0**element.least_exponent
            self.least, self.top = -element.top, element.top
        self.floats = element is not None
        super().__init__(groups, weight)
        self.s = self.spread(self.exact.to(torch.float32))
        self.inverse = 1 / self.s

    def prepare(self) -> None:
        """Steps stay."""

    def after(self, lr: float) -> None:
        """No factor is tuned."""

    def _places(self, units: Tensor) -> Tensor | None:
        """Return the unit of the last place of each element; None where it is 1."""
        if not self.floats:
            return None
        bits = units.abs().clamp_(self.floor, self.top).view(torch.int32) & 0x7F800000
        return bits.view(torch.float32) * 2.0**-self.man

    def _moved(self, rows: slice) -> Tensor:
        """Return elements, moved and rounded, in units of their step, before they are clipped."""
        units = self.w[rows] * self.inverse[rows]
        place = self._places(units)
        if place is None:
            return units.add_(self.v[rows]).round_()
        return units.div_(place).add_(self.v[rows]).round_().mul_(place)

    def _units(self, rows: slice) -> Tensor:
        return self._moved(rows).clamp_(self.least, self.top)

    def forward(self, rows: slice) -> None:
        torch.mul(self._units(rows), self.s[rows], out=self.q[rows])

    def backward(self, rows: slice, g: Tensor, lr: float) -> None:
        units = self._moved(rows)
        inner = torch.ops.aten.hardtanh_backward(g, units, self.least - 0.25, self.top + 0.25)
        self.v[rows].add_(inner.sign_(), alpha=-lr)

    def piece(self) -> PackedWeight:
        for start in range(0, self.rows, self.step):
            rows = slice(start, start + self.step)
            self.q[rows] = self._units(rows)
        codes = self.groups.codes(self._flat(self.q).contiguous())
        found = self.groups.piece(codes, Steps(self.exact.squeeze(-1)))
        return PackedWeight((self.rows, self.inputs), (found,))


def movable(where: str, text: str) -> None:
    """Refuse a format in which rounding cannot be moved by a part of a step."""
    fmt = grouped(where, text)
    integer = isinstance(fmt, Int) and fmt.zero != "real"
    if not integer and not isinstance(fmt, IntegerBlocks | FloatBlocks | NVFP4):
        raise ConfigError(
            f"{where}: format {fmt} has no steps that rounding moves between; allowed are integers without a real "
            "offset, mxint, mxfp, bfp, bm and nvfp4"
        )


def tuned(groups: Groups, layer: Layer, search: bool, importance: Tensor | None) -> Tuned:
    """Return a layer ready to be tuned, in a format that :func:`movable` allows."""
    weight = layer.weight.to(torch.float32)
    if isinstance(groups, IntGroups):
        if search and groups.fmt.full:
            return TunedFactor(groups, weight, searched(groups, weight, importance, every=True).step)
        return TunedInt(groups, weight)
    steps = searched(groups, weight, importance) if search else groups.fit(weight)
    return TunedGrid(groups, weight, steps.step)


@METHODS.add("signround")
@dataclass(frozen=True)
class SignRound(Method):
    """Tune rounding and ranges of all layers of a block against its float output.

    Args:
        format: of the weights. recipe: default is 200 steps, light 50 with lr 0.005, best 1000.
        iters: steps, 0..100000; None: those of the recipe; 0 rounds to nearest. lr: of the first step, falling to 0;
            None: 1 / iters (2 / iters from 1000 steps at 3 bits or fewer). batch: samples a step. seed: of their order.
        keep: the parameters of the step of the least loss: ``best``, the loss of a step is that of its own samples;
            ``fixed``, it is that of one batch, the same for all steps; or ``last``.

    Source: W. Cheng et al., Optimize Weight Rounding via Signed Gradient Descent, 2023; numbers as in AutoRound.
    """

    format: str = "int4g128f_fp16"
    recipe: Recipe = "default"
    iters: int | None = None
    lr: float | None = None
    batch: int = 8
    seed: int = 42
    keep: Keep = "best"
    blockwise: ClassVar[bool] = True
    stage: ClassVar[Stage] = "quantizer"
    search: ClassVar[bool] = False
    suppress: ClassVar[bool] = False
    name: ClassVar[str] = "signround"

    def __post_init__(self) -> None:
        movable(f"{self.name}.format", self.format)
        choice(f"{self.name}.recipe", self.recipe, tuple(RECIPES))
        choice(f"{self.name}.keep", self.keep, get_args(Keep))
        if self.iters is not None:
            whole(f"{self.name}.iters", self.iters, 0, 100_000)
        if self.lr is not None:
            number(f"{self.name}.lr", self.lr, 0, 1, above=True)
        whole(f"{self.name}.batch", self.batch, 1, 1024)
        seeded(f"{self.name}.seed", self.seed)

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return RECIPES[self.recipe][0] if self.iters is None else self.iters

    def rate(self, bits: int) -> float:
        """Return the length of the first step."""
        lr = RECIPES[self.recipe][1] if self.lr is None else self.lr
        if lr is not None:
            return lr
        return (2 if self.steps >= 1000 and bits <= SLOW_BITS else 1) / max(1, self.steps)

    def run(self, block: Block) -> None:
        layers = block.layers(self.needs)
        parts = {layer.path: self._tuned(layer) for layer in layers}
        if parts and self.steps:
            self._tune(Runner(block, self.name), parts)
        for path, part in parts.items():
            block.write(path, part.piece())

    def _tuned(self, layer: Layer) -> Tuned:
        groups = groups_of(parse(self.format), layer.weight, f"{self.name}: {layer.path}")
        return tuned(groups, layer, self.search, layer.seen.squares)

    def _tune(self, runner: Runner, parts: Mapping[str, Tuned]) -> None:
        least, rates = float("inf"), {path: self.rate(part.bits) for path, part in parts.items()}
        seen = _common if self.suppress and min(part.bits for part in parts.values()) < 4 else None
        fixed = next(batches(len(runner.samples), self.batch, 1, self.seed + 1))
        for step, which in enumerate(batches(len(runner.samples), self.batch, self.steps, self.seed)):
            weights = {path: part.rounded().detach().requires_grad_() for path, part in parts.items()}
            loss = runner.checked(runner.backward(weights, which, seen, mean=False), step)
            loss = runner.loss(weights, fixed) if self.keep == "fixed" else loss
            if loss < least and self.keep != "last":
                least = loss
                for part in parts.values():
                    part.keep()
            for path, part in parts.items():
                gradient = weights[path].grad
                if gradient is not None:  # of an expert that no token reached there is none
                    part.move(gradient, rates[path] * (1 - step / self.steps))
        if self.keep != "last":
            for part in parts.values():
                part.back()


def _common(error: Tensor) -> Tensor:
    """Return 0 for the greatest of a thousand errors, 1 for the others."""
    size = error.abs().flatten()
    count = int(size.numel() * OUTLIERS)
    if count == 0:
        return torch.ones_like(error)
    limit = size.kthvalue(size.numel() - count).values
    return (error.abs() <= limit).to(error.dtype)
