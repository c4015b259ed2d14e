"""One simulation for many parameter sets: a generated top that instantiates each in a scope of its own.

Every port of a block but clock and reset becomes a variable of its scope, so a test reaches it as
``dut.<scope>.<port>``. Compiling one top with twenty small blocks costs little more than compiling one block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PARAMETER = re.compile(r"^\s*parameter\s+(?:(?:int|bit)\s+)?(\w+)\s*=\s*([^,\n]+?),?\s*$", re.M)
PORT = re.compile(r"^\s*(?:input\s+wire|output)\s+logic\s*(\[[^\]]+\])?\s*(\w+),?\s*$", re.M)


@dataclass(frozen=True)
class Instance:
    """One block under test: the scope it gets, its module and its parameters; strings are passed as strings."""

    scope: str
    module: str
    parameters: Mapping[str, int | str] = field(default_factory=dict)


def header(source: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the parameters of a module of ``hw/`` with their defaults, and its ports with their ranges."""
    text = re.sub(r"//[^\n]*", "", source.read_text())
    parameters, found, ports = text[text.index("module ") : text.index(");")].partition(") (")
    if not found:  # a module without parameters
        parameters, ports = "", parameters
    return dict(PARAMETER.findall(parameters)), {name: span for span, name in PORT.findall(ports)}


def bench(top: str, instances: Sequence[Instance], sources: Sequence[Path]) -> str:
    """Return a SystemVerilog module ``top`` with ports ``clk_i`` and ``rst_ni`` and one scope an instance."""
    where = {path.stem: path for path in sources}
    scopes = "\n".join(_scope(instance, where[instance.module]) for instance in instances)
    return f"module {top} (input wire logic clk_i, input wire logic rst_ni);\n{scopes}\nendmodule\n"


def _scope(instance: Instance, source: Path) -> str:
    parameters, ports = header(source)
    unknown = set(instance.parameters) - set(parameters)
    assert not unknown, f"{source.name} has no parameter {sorted(unknown)}"
    values = {name: instance.parameters.get(name, default) for name, default in parameters.items()}
    quoted = {name for name, default in parameters.items() if default.startswith('"')}
    lines = [f"  if (1) begin : {instance.scope}"]
    for name, value in values.items():
        text = f'"{value}"' if name in quoted and name in instance.parameters else value
        lines.append(f"    localparam {'' if name in quoted else 'int '}{name} = {text};")
    lines += [f"    logic {span} {name};" for name, span in ports.items() if name not in {"clk_i", "rst_ni"}]
    overrides = ", ".join(f".{name}({name})" for name in values)
    lines.append(f"    {instance.module} #({overrides}) u_dut ({', '.join(f'.{name}' for name in ports)});")
    return "\n".join([*lines, "  end"])
