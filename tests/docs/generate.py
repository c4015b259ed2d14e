"""Write the parts of the pages in ``docs`` that follow from the code.

Run ``python -m tests.docs.generate`` after a change. A part stands between ``<!-- generated: NAME -->`` and
``<!-- end -->``; a test finds a page that is not up to date.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import typer

from mase import ptqconfig, studyconfig
from mase.cli import app
from mase.config import schema
from mase.formats import parse
from mase.formats.packed import PackedWeight
from mase.frontend import modules as frontend_modules
from mase.ops.base import MANY, OPS, HardwareOp
from passes.ptq.base import METHODS
from passes.ptq.export.base import EXPORTS, Export, UnheldError
from tests.docs.pages import DOCS

PAGES = ("config.md", "ptq.md", "ptq/export.md", "study.md", "cli.md", "frontend.md")
MARK = re.compile(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", re.DOTALL)
Json = Mapping[str, Any]  # a part of a JSON schema
LEAST = {1: "one", 2: "two"}  # how many entries a list has
BOUNDS = {
    "exclusiveMinimum": "above",
    "minimum": "at least",
    "exclusiveMaximum": "below",
    "maximum": "at most",
}.items()  # as a JSON schema calls them, and we do


def filled(page: str) -> str:
    """Return a page with its generated parts made anew."""
    return MARK.sub(lambda match: f"<!-- generated: {match[1]} -->\n{PARTS[match[1]]()}\n<!-- end -->", page)


# -- config.md ---------------------------------------------------------------------------------------------------------


def fields() -> str:
    """Return a table of fields for the whole configuration and for each of its sections, in order of appearance."""
    return _fields(schema(), "The file")


def ptq_fields() -> str:
    """Return the same for the configuration of post-training quantization."""
    return _fields(ptqconfig.schema(), "`PtqConfig`")


def study_fields() -> str:
    """Return the same for the configuration of a study."""
    return _fields(studyconfig.schema(), "`StudyConfig`")


def _fields(whole: Json, title: str) -> str:
    known = whole["$defs"]
    parts = [_section(f"`{name}`", known[name]) for name in _sections(whole, known)]
    return "\n\n".join([_section(title, whole), *parts])


def _sections(part: Json, known: Json) -> list[str]:
    """Return the sections that a part leads to, each once, depth first."""
    found: list[str] = []
    for name in re.findall(r"'\$ref': '#/\$defs/(\w+)'", str(part.get("properties", {}))):
        found += [n for n in (name, *_sections(known[name], known)) if n not in found]
    return found


def _section(title: str, part: Json) -> str:
    required = part.get("required", [])
    rows = [
        f"| `{key}` | {_type(field)} | {_default(field, key in required)} | {_plain(field.get('description', ''))} |"
        for key, field in part["properties"].items()
    ]
    head = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    return "\n".join([f"### {title}", "", part["description"], "", *head, *rows])


def _type(field: Json) -> str:
    if "$ref" in field:
        return f"[`{(name := field['$ref'].rpartition('/')[2])}`](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"] if option.get("type") != "null")
    if "const" in field:
        return f"{field['const']}"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if not field.keys() & {"$ref", "anyOf", "const", "enum", "type"}:
        return "anything"
    if field.get("type") == "array":
        count = field.get("minItems", 0)
        least = f", {LEAST.get(count, _number(count))} or more" if count else ""
        return f"list of {_type(field['items'])}{least}{_most(field, 'maxItems')}"
    if field.get("type") == "object":
        inner = field.get("additionalProperties")
        return f"mapping to {_type(inner)}{_most(field, 'maxProperties')}" if isinstance(inner, dict) else "mapping"
    return _scalar(field)


def _most(field: Json, key: str) -> str:
    return f", at most {_number(field[key])}" if key in field else ""


def _scalar(field: Json) -> str:
    name = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "text"}[field["type"]]
    bounds = [f"{word} {_number(field[key])}" for key, word in BOUNDS if key in field]
    return ", ".join([name, *bounds])


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _default(field: Json, required: bool) -> str:
    if required:
        return "required"
    value = field.get("default")
    if value is None or isinstance(value, dict):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


# -- ptq/export.md -----------------------------------------------------------------------------------------------------

SHOWN = (
    *("int4g32", "int4g32f_fp16", "int4g32a_fp16", "int4g32a", "int4g32r_fp16", "int3g64f_fp16", "int8c_fp16", "int8c"),
    *(
        "int5g32_fp16",
        "int4g48a_fp16",
        "mxint8",
        "bfp4b32",
        "mxfp4",
        "mxfp8e4m3",
        "mxfp6e3m2",
        "nvfp4",
        "nf4",
        "ternaryc",
    ),
)
SHAPE = 64, 96  # outputs and inputs of the weights that the table tries


def exports() -> str:
    """Return a table of what each layout makes of weights in some formats."""
    names = list(EXPORTS)
    weights = torch.randn(*SHAPE, generator=torch.Generator().manual_seed(0))
    rows = [f"| format | {' | '.join(name.replace('_', '-') for name in names)} |", "| --- |" + " --- |" * len(names)]
    for text in SHOWN:
        weight = PackedWeight.of(weights, parse(text))
        rows.append(f"| `{text}` | {' | '.join(_held(EXPORTS[name](), weight) for name in names)} |")
    return "\n".join(rows)


def _held(layout: Export, weight: PackedWeight) -> str:
    try:
        return layout.held(weight)
    except UnheldError as fault:
        return f"no: {fault}"


# -- cli.md ------------------------------------------------------------------------------------------------------------


def commands() -> str:
    """Return a section for each command: what it does, its arguments and options, its examples."""
    return "\n\n".join(_command(name, callback) for name, callback in _commands(app))


def _commands(group: typer.Typer, prefix: str = "mase") -> Iterator[tuple[str, Callable[..., Any]]]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield f"{prefix} {command.name or command.callback.__name__.rstrip('_')}", command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from _commands(inner.typer_instance, f"{prefix} {inner.name or inner.typer_instance.info.name}")


def _command(name: str, callback: Callable[..., Any]) -> str:
    text = inspect.getdoc(callback) or ""
    what, _, rest = re.sub(r"\[/?(bold)?\]", "", text).partition("\n\n")
    arguments, options = _parameters(callback)
    usage = " ".join([name, *(f"{key.upper()}{'...' if many else ''}" for key, many, _ in arguments)])
    usage += " [OPTIONS]" if options else ""
    examples = re.findall(r"^\s*(?:Examples?:?)?\s*(mase .*)$", rest, re.MULTILINE)
    named = [*((key.upper(), text) for key, _, text in arguments), *options]
    rows = [f"| `{key}` | {_plain(text)} |" for key, text in named]
    table = ["", "| | |", "| --- | --- |", *rows] if rows else []
    shown = ["```console", *(f"$ {example}" for example in examples), "```"]
    return "\n".join([f"## {name}", "", what.replace("\n", " "), "", *shown, "", f"`{usage}`", *table])


def _parameters(callback: Callable[..., Any]) -> tuple[list[tuple[str, bool, str]], list[tuple[str, str]]]:
    """Return (name, takes several, help) of each argument and (option, help) of each option."""
    hints = typing.get_type_hints(callback, include_extras=True)
    arguments, options = [], []
    for key in inspect.signature(callback).parameters:
        kind, info = hints[key].__origin__, hints[key].__metadata__[0]
        if type(info).__name__ == "ArgumentInfo":
            arguments.append((key.rstrip("_"), "list" in str(kind), info.help or ""))
        else:
            value = "" if kind is bool else f" {_value(kind)}"
            options.append((f"{info.default}{value}", info.help or ""))
    return arguments, options


def _plain(text: str) -> str:
    """Keep a text from being read as a tag or as the end of a cell."""
    return text.replace("<", "&lt;").replace("|", "\\|")


def _value(kind: object) -> str:
    return "PATH" if "Path" in str(kind) else "NUMBER" if "int" in str(kind) or "float" in str(kind) else "TEXT"


# -- frontend.md -------------------------------------------------------------------------------------------------------


def kinds() -> str:
    """Return a table of the kinds of nodes: inputs, parameters that take formats, hardware, what is computed."""
    rows = ["| kind | inputs | hardware | computes |", "| --- | --- | --- | --- |"]
    for name, op in OPS.items():
        least, most = op.arity
        inputs = str(least) if least == most else f"{least} or more" if most >= MANY else f"{least} to {most}"
        weights = f"; takes formats: {', '.join(f'**{role}**' for role in op.weights)}" if op.weights else ""
        paragraphs = re.split(r"\n\n(?!Attributes|Inputs|Operands)", inspect.getdoc(op) or "")
        text = _plain(" ".join(paragraphs[0].split()).rstrip(".")).replace("``", "`")
        hardware = "yes" if issubclass(op, HardwareOp) else ""
        rows.append(f"| `{name}` | {inputs} | {hardware} | {text}{weights} |")
    return "\n".join(rows)


def modules() -> str:
    """Return a table of PyTorch's modules by the kind that they become."""
    found: dict[str, list[str]] = {}
    for cls, rule in frontend_modules.MODULES.items():
        kind = re.search(r'Lift\(\s*"(\w+)"', inspect.getsource(rule))
        assert kind is not None, cls
        found.setdefault(kind[1], []).append(f"`{cls.__name__}`")
    rows = [f"| `{kind}` | {', '.join(names)} |" for kind, names in sorted(found.items())]
    return "\n".join(["| kind | modules of `torch.nn` |", "| --- | --- |", *rows])


# -- ptq.md ------------------------------------------------------------------------------------------------------------


def methods() -> str:
    """Return a table of the methods of post-training quantization."""
    rows = ["| method | what | needs samples |", "| --- | --- | --- |"]
    for name, cls in METHODS.items():
        page = f"[`{name}`](ptq/{name}.md)" if (DOCS / "ptq" / f"{name}.md").is_file() else f"`{name}`"
        what = _plain((inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ").rstrip("."))
        rows.append(f"| {page} | {what} | {'yes' if cls().calibrates else 'no'} |")
    return "\n".join(rows)


PARTS: Mapping[str, Callable[[], str]] = {
    "fields": fields,
    "ptq_fields": ptq_fields,
    "study_fields": study_fields,
    "methods": methods,
    "exports": exports,
    "commands": commands,
    "kinds": kinds,
    "modules": modules,
}


def write(docs: Path) -> None:
    """Fill the pages below ``docs``."""
    for name in PAGES:
        page = docs / name
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write(DOCS)
