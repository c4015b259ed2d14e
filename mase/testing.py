"""Laws that tests of formats and operators inherit: subclass, name the object, and pytest runs them all."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mase.dataflow.schedule import Loop, Step
from mase.errors import FormatError
from mase.formats.base import Code, Format, QuantParams, narrowed, parse
from mase.graph import Graph
from mase.netlist import Instance, build
from mase.paths import hw_dir

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# a law is one function that many classes run, which hypothesis takes for a mistake; seeds make the examples repeatable
law = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)

shapes = st.lists(st.integers(0, 9), max_size=5).filter(lambda shape: math.prod(shape) <= 3000) | st.sampled_from(
    [[], [1], [0], [3, 0], [33], [2, 70], [40, 3], [2, 3, 2, 2, 35]]
)


@dataclass(frozen=True)
class Data:
    """Draw test tensors that meet the corners: ties, powers of two and their neighbours, wide range, zeros.

    Args:
        seed: of the draw.
        shape: of the tensor.
        dtype: any float dtype.
        layout: ``plain``, ``transposed`` (strides reversed) or ``strided`` (every second element of a larger tensor).
        spread: greatest distance, in powers of two, from 1; the dtype limits it further.
    """

    seed: int
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    layout: str = "plain"
    spread: int = 30

    def tensor(self) -> Tensor:
        """Return the tensor; equal arguments give equal tensors."""
        shape = self.shape[::-1] if self.layout == "transposed" else self.shape
        x = self._values(math.prod(shape)).to(self.dtype).reshape(shape)
        if self.layout == "transposed":
            return x.permute(*reversed(range(x.ndim))) if x.ndim else x
        if self.layout == "strided" and x.ndim:
            return torch.stack([x, -x], -1)[..., 0]
        return x

    def _values(self, count: int) -> Tensor:
        draw = torch.Generator().manual_seed(self.seed)
        reach = min(self.spread, 14 if self.dtype == torch.float16 else 120)
        normal = torch.randn(count, generator=draw, dtype=torch.float64)
        exponent = torch.randint(-reach, reach + 1, (count,), generator=draw)
        power = torch.copysign(torch.ldexp(torch.ones(count, dtype=torch.float64), exponent), normal)
        kinds = torch.stack(
            [
                normal,
                torch.ldexp(normal, exponent),
                power,
                power.to(torch.float32).nextafter(torch.tensor(0.0)).to(torch.float64),  # predecessors
                (normal * 8).round() / 2,  # ties of coarse grids
                (normal * 64).round() / 16,
                torch.zeros_like(normal),
                -torch.zeros_like(normal),
                torch.full_like(normal, 1.75),
            ]
        )
        run = torch.randint(0, len(kinds), (count // 5 + 1,), generator=draw).repeat_interleave(5)[:count]
        return kinds.gather(0, run.unsqueeze(0)).squeeze(0)


def data(dtypes: Sequence[torch.dtype] = DTYPES, spread: int = 30) -> st.SearchStrategy[Data]:
    """Return a strategy of test tensors."""
    return st.builds(
        Data,
        seed=st.integers(0, 2**32 - 1),
        shape=shapes.map(tuple),
        dtype=st.sampled_from(dtypes),
        layout=st.sampled_from(["plain", "transposed", "strided"]),
        spread=st.just(spread),
    )


def extremes(dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield tensors ``[3, 1, 16]`` with magnitudes up to the ends of a dtype, of float32 and of the formats."""
    info = torch.finfo(dtype)
    least = float(torch.tensor(0.0, dtype=dtype).nextafter(torch.tensor(1.0, dtype=dtype)))
    wide = (
        2.0**-149,
        2.0**-140,
        1e-38,
        7e-36,
        1e-35,
        2.0**53,
        2.0**60,
        2.0**63,
        1e30,
        3.4028234663852886e38,
        1e60,
        1e-60,
    )
    for top in (least, info.smallest_normal, info.max, *(t for t in wide if least <= t <= info.max)):
        rows = [[0.0, top, -top / 2, *[top / 3] * 13], [least, *[0.0] * 15], [top, -top] * 8]
        yield torch.tensor(rows, dtype=torch.float64).to(dtype).unsqueeze(1)


def same(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors have equal dtype, shape and values, the signs of zeros too."""
    return a.dtype == b.dtype and torch.equal(a, b) and torch.equal(torch.signbit(a), torch.signbit(b))


class FormatLaws:
    """What every number format promises; a subclass sets ``fmt`` and switches off what its definition excludes.

    Args:
        fmt: the format under test, with at most 10 bits an element where ``nearest`` is on.
        axis: of blocks, groups or channels; used where the data has it.
        zero: zero is a number of the format.
        symmetric: negation commutes with rounding.
        nearest: no other number of the format, under the same shared fields, is nearer.
        idempotent: rounding twice is rounding once, shared fields chosen again.
        scales: multiplication by a power of two commutes, parameters calibrated again.
        saturates: infinity becomes the greatest number.
        spread: of the data, in powers of two; less where the format's own range is short.
    """

    fmt: Format
    axis: ClassVar[int] = -1
    zero: ClassVar[bool] = True
    symmetric: ClassVar[bool] = True
    nearest: ClassVar[bool] = True
    idempotent: ClassVar[bool] = True
    scales: ClassVar[bool] = False
    saturates: ClassVar[bool] = True

    def params(self, x: Tensor) -> QuantParams:
        """Return parameters fitted to ``x``."""
        axis = self.axis if -x.ndim <= self.axis < x.ndim else -1
        return self.fmt.calibrate(x, axis)

    def fits(self, x: Tensor) -> bool:
        """Tell whether ``x`` has as many axes as a tile of the format."""
        return x.ndim >= len(getattr(self.fmt, "outer", ())) + 1 or not getattr(self.fmt, "outer", ())

    def test_text_form_round_trips(self) -> None:
        again = parse(str(self.fmt))
        assert again == self.fmt
        assert hash(again) == hash(self.fmt)
        assert str(again) == str(self.fmt)

    @law
    @given(data())
    def test_quantize_is_decode_of_encode(self, given_data: Data) -> None:
        x = given_data.tensor()
        if not self.fits(x):
            return
        params = self.params(x)
        y = self.fmt.quantize(x, params)
        assert y.dtype == x.dtype
        assert same(y, narrowed(self.fmt.decode(self.fmt.encode(x, params), params), x.dtype))
        out = torch.full_like(y, torch.nan)
        if x.numel():
            assert same(self.fmt.quantize(x, params, out=out), y)
            assert same(out, y)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_finite_data_stay_finite(self, dtype: torch.dtype) -> None:
        """Subnormal, tiny and huge data: the fast way is the exact one, and no code is out of range."""
        low, high = self.fmt.code_range()
        for x in extremes(dtype):
            try:
                params = self.params(x)
            except FormatError as error:  # a published tool whose float32 arithmetic has no scale for such data
                assert "in which the tool computes" in str(error)  # noqa: PT017  # not every tensor is refused
                continue
            code = self.fmt.encode(x, params)
            y = self.fmt.decode(code, params)
            assert bool(((code.mantissa >= low) & (code.mantissa <= high)).all())
            assert bool(torch.isfinite(y).all()) or getattr(self.fmt, "overflow", "") == "special"
            assert same(self.fmt.quantize(x, params), narrowed(y, dtype))

    @law
    @given(data())
    def test_codes_stay_in_range(self, given_data: Data) -> None:
        x = given_data.tensor()
        if not self.fits(x):
            return
        low, high = self.fmt.code_range()
        mantissa = self.fmt.encode(x, self.params(x)).mantissa
        assert mantissa.dtype == torch.int64
        assert mantissa.shape == x.shape
        assert bool(((mantissa >= low) & (mantissa <= high)).all())

    @law
    @given(data((torch.float32, torch.float64)))
    def test_rounding_twice_is_rounding_once(self, given_data: Data) -> None:
        x = given_data.tensor()
        if not self.idempotent or not self.fits(x):
            return
        params = self.params(x)
        once = self.fmt.quantize(x, params)
        assert torch.equal(self.fmt.quantize(once, params), once)

    @law
    @given(data())
    def test_zero_stays_zero(self, given_data: Data) -> None:
        x = given_data.tensor()
        if not self.fits(x):
            return
        y = self.fmt.quantize(x, self.params(x))
        assert bool((y[x == 0] == 0).all()) or not self.zero

    @law
    @given(data())
    def test_negation_commutes(self, given_data: Data) -> None:
        x = given_data.tensor()
        if not self.symmetric or not self.fits(x):
            return
        params = self.params(x)
        assert torch.equal(self.fmt.quantize(-x, params), -self.fmt.quantize(x, params))

    @law
    @given(data((torch.float32, torch.float64), spread=20), st.integers(-15, 15))
    def test_power_of_two_commutes(self, given_data: Data, power: int) -> None:
        x = given_data.tensor()
        if not self.scales or not self.fits(x):
            return
        wide = x * 2.0**power
        assert torch.equal(
            self.fmt.quantize(wide, self.params(wide)), self.fmt.quantize(x, self.params(x)) * 2.0**power
        )

    @law
    @given(data((torch.float64,)))
    def test_no_other_number_is_nearer(self, given_data: Data) -> None:
        x = given_data.tensor()
        if not self.nearest or not self.fits(x) or x.numel() == 0:
            return
        params = self.params(x)
        code = self.fmt.encode(x, params)
        low, high = self.fmt.code_range()
        errors = [self._error(x, torch.full_like(code.mantissa, m), code, params) for m in range(low, high + 1)]
        assert torch.equal(self._error(x, code.mantissa, code, params), torch.stack(errors).amin(0))

    def _error(self, x: Tensor, mantissa: Tensor, code: Code, params: QuantParams) -> Tensor:
        values = self.fmt.decode(Code(mantissa, code.exponent, code.scale), params)
        return (values - x).abs().nan_to_num(nan=torch.inf)

    @law
    @given(data((torch.float32,)))
    def test_results_lie_within_the_limits_and_meet_them_beyond(self, given_data: Data) -> None:
        x = given_data.tensor()
        if not self.fits(x):
            return
        params = self.params(x)
        low, high = (bound.expand_as(x) for bound in self.fmt.limits(x, params))
        y = self.fmt.decode(self.fmt.encode(x, params), params)
        assert bool(((y >= low) & (y <= high)).all())
        if self.saturates:
            assert torch.equal(y[x > high], high[x > high])
            assert torch.equal(y[x < low], low[x < low])

    def test_gradient_is_that_of_the_clipped_identity(self) -> None:
        x = Data(7, (6, 2, 40), torch.float64, spread=4).tensor()
        params = self.params(x)
        low, high = (bound.expand_as(x) for bound in self.fmt.limits(x, params))
        step = 1e-6
        apart = ((x - low).abs() > 2 * step) & ((x - high).abs() > 2 * step)
        numeric = (torch.clamp(x + step, low, high) - torch.clamp(x - step, low, high)) / (2 * step)
        leaf = x.clone().requires_grad_()
        weight = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape)
        (self.fmt.quantize(leaf, params) * weight).sum().backward()
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad[apart], (numeric * weight)[apart], rtol=0, atol=1e-8)  # of the difference

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_nan_is_refused_and_counted(self, dtype: torch.dtype) -> None:
        x = torch.ones(2, 1, 70, dtype=dtype)
        params = self.params(x)
        x[1, 0, 3] = x[0, 0, 69] = torch.nan
        if getattr(self.fmt, "nan", "error") == "encode":
            assert bool(torch.isnan(self.fmt.quantize(x, params)[1, 0, 3]))
            return
        for call in (self.fmt.encode, self.fmt.quantize):
            self._refused(call, x, params, "NaN at 2 of 140")

    def test_integers_are_refused(self) -> None:
        x = torch.ones(2, 1, 70)
        params = self.params(x)
        for call in (self.fmt.encode, self.fmt.quantize):
            self._refused(call, x.to(torch.int32), params, "int32")

    def _refused(
        self, call: Callable[..., Any], x: Tensor, params: QuantParams, text: str
    ) -> None:  # Any: codes or data
        with pytest.raises(FormatError) as caught:
            call(x, params)
        assert str(self.fmt) in str(caught.value)
        assert text in str(caught.value)

    def test_infinity_saturates(self) -> None:
        x = torch.tensor([[[1.0] * 34], [[-1.0] * 34]])
        params = self.params(x)
        x[0, 0, 1], x[1, 0, 2] = torch.inf, -torch.inf
        if not self.saturates:
            return
        y = self.fmt.decode(self.fmt.encode(x, params), params)
        assert bool(torch.isfinite(y).all())
        low, high = (bound.expand_as(x) for bound in self.fmt.limits(x, params))
        assert (y[0, 0, 1], y[1, 0, 2]) == (high[0, 0, 1], low[1, 0, 2])
        assert same(self.fmt.quantize(x, params), narrowed(y, x.dtype))

    def test_stored_bits_count_shared_fields(self) -> None:
        layout = self.fmt.layout()
        element = sum(bits for _, bits in layout.element)
        shared = sum(bits for _, bits in layout.shared)
        assert (self.fmt.bits((6, 64, 64)) == element) == (shared == 0)
        assert self.fmt.bits((6, 64, 64)) <= element + shared
        assert all(isinstance(value, int) for value in self.fmt.sv_params().values())


@dataclass(frozen=True, eq=False)
class Mapped:
    """A mapped graph, and the codes that its first hardware edge is fed."""

    graph: Graph
    code: Code


class OpLaws:
    """What every hardware operator promises; a subclass names the kind and gives graphs that hold it.

    ``prove`` is a fixture of the test suite: it emits graphs, simulates them, and compares every edge and every cycle.
    """

    kind: ClassVar[str]

    def graphs(self) -> Mapping[str, Mapped]:
        """Return small mapped graphs by name: corners of sizes, formats and lanes, fed with corners of codes."""
        raise NotImplementedError

    def instances(self) -> Iterator[tuple[str, Instance]]:
        """Yield the blocks of the operator in all graphs, each with the graph's name."""
        for name, mapped in self.graphs().items():
            netlist = build(mapped.graph)
            for instance in netlist.instances:
                if netlist.graph.node(instance.node).kind == self.kind and instance.role != "convert":
                    yield name, instance

    def test_every_graph_holds_the_operator(self) -> None:
        assert {name for name, _ in self.instances()} == set(self.graphs())

    def test_parameters_are_those_of_the_module(self) -> None:
        for name, instance in self.instances():
            given, block = dict(instance.block.sv_params()), instance.block
            given |= dict.fromkeys(block.memories(), 0)
            known = module_parameters(block.sv_module)
            missing = {key for key, default in known.items() if default != '""'} - set(given)
            assert (missing, set(given) - set(known)) == (set(), set()), f"{name}: {block.sv_module}"

    def test_memories_fit_their_words(self) -> None:
        for name, instance in self.instances():
            for key, image in instance.block.memories().items():
                assert all(0 <= word < 1 << image.width for word in image.words), f"{name}: {key}"
                assert [int(line, 16) for line in image.text().split()] == list(image.words), f"{name}: {key}"

    def test_reference_equals_oracle(self) -> None:
        for name, mapped in self.graphs().items():
            netlist = build(mapped.graph)
            expected = netlist.codes(mapped.code, oracle=True)
            for edge, code in netlist.codes(mapped.code).items():
                assert same_codes(code, expected[edge]), f"{name}: edge {edge}"

    def test_a_saved_graph_gives_the_same_operator(self, tmp_path: Path) -> None:
        for name, mapped in self.graphs().items():
            mapped.graph.save(tmp_path / name)
            loaded = build(Graph.load(tmp_path / name))
            for edge, code in build(mapped.graph).codes(mapped.code).items():
                assert same_codes(loaded.codes(mapped.code)[edge], code), f"{name}: edge {edge}"

    def test_schedule_moves_every_beat(self) -> None:
        for name, instance in self.instances():
            schedule, block = instance.block.schedule(), instance.block
            bodies = {actor.name: actor.body for actor in schedule.actors}
            for port, stream in {**block.inputs, **block.outputs}.items():
                actor, inner = schedule.port(port)
                assert count_port(bodies[actor], inner) == stream.beats, f"{name}: port {port}"

    @pytest.mark.sim
    def test_simulation_equals_reference_and_schedule(self, prove: Callable[[Mapping[str, Mapped]], None]) -> None:
        prove(self.graphs())


def same_codes(a: Code, b: Code) -> bool:
    """Tell whether codes are equal, shapes too."""
    if a.exponent is None or b.exponent is None:
        return a.exponent is b.exponent and torch.equal(a.mantissa, b.mantissa)
    return torch.equal(a.mantissa, b.mantissa) and torch.equal(a.exponent, b.exponent)


def module_parameters(module: str) -> dict[str, str]:
    """Return the parameters of a module of ``hw/`` with their defaults, but for those that derive from others."""
    text = next(hw_dir().rglob(f"{module}.sv")).read_text()
    head = text[text.index("#(") : text.index(") (")].partition("// Derived")[0]
    return dict(re.findall(r"^\s*parameter\s+(?:\w+\s+)?(\w+)\s*=\s*(.+?),?\s*(?://.*)?$", head, re.MULTILINE))


def count_port(body: Sequence[Step | Loop], port: str) -> int:
    """Return how many tokens a firing program takes or publishes on a port, a tensor."""
    return sum(
        item.count * count_port(item.body, port) if isinstance(item, Loop) else (*item.take, *item.publish).count(port)
        for item in body
    )
