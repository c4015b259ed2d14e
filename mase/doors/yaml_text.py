"""YAML of plain data: mappings, lists, text, numbers in ASCII digits, true and false; no dates, bytes or objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.scanner import ScannerError

from mase.doors import file, number
from mase.errors import ConfigError

MOST = 100_000  # values, each counted as often as an alias repeats it
DEEPEST = 100  # lists and mappings within each other
DEEP = f"lists and mappings are nested too deep; at most {DEEPEST} within each other"
LAYOUT = "\t\n\r\x85"  # control characters that text may hold
TAG = "tag:yaml.org,2002:"
CLOSED = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")  # an integer; with a zero before it, it could be octal
REAL = re.compile(rf"(?=.*[.eE])(?:{number.REAL.pattern})|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


class ConfigLoader(yaml.SafeLoader):
    """Load plain data; a key that stands twice in one mapping is refused: the first would be lost unseen."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # as PyYAML declares it; filled below
    yaml_constructors: ClassVar[dict[str | None, Any]] = {}

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # Any: as PyYAML declares it
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise ComposerError(None, None, f"key {key.value[:60]!r} is given twice", key.start_mark)
            seen.add(str(key.value))
        return node

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # noqa: N803  # named and typed by PyYAML
        if self.flow_level >= DEEPEST:  # its scanner takes seconds for a thousand brackets
            raise ScannerError(None, None, DEEP, self.get_mark())
        super().fetch_flow_collection_start(TokenClass)

    def plain_text(self, node: yaml.Node) -> str:
        """Return text that can be written to any file and named in any error."""
        text = str(self.construct_scalar(node))  # type: ignore[arg-type]  # refuses lists and mappings itself
        if found := file.UNSEEN.search(text.translate(dict.fromkeys(map(ord, LAYOUT)))):
            raise ConstructorError(None, None, f"found the character {found[0]!a} in a text", node.start_mark)
        return text

    def scalar(self, node: yaml.Node, what: str, read: Callable[[str], Any]) -> Any:
        """Return what ``read`` makes of a scalar; it raises ``KeyError`` or ``ConfigError`` where that is not one."""
        text = self.plain_text(node)
        try:
            return read(text)
        except KeyError:
            raise ConstructorError(None, None, f"found {text[:40]!r}; {what} is needed", node.start_mark) from None
        except ConfigError as error:
            raise ConstructorError(None, None, str(error), node.start_mark) from None


class ConfigDumper(yaml.SafeDumper):
    """Write plain data; text that either this loader or another would take for something else is quoted."""


def parse(text: str, where: str) -> Any:  # Any: whatever the text says
    """Return the data of a YAML text.

    Raises:
        ConfigError: it is not YAML, or holds more than plain data; says in which line and column.
    """
    loader = None
    try:
        loader = ConfigLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise ConfigError(f"{where}: this is not YAML: {place}{error.problem or error.context}"[:400]) from None
    except RecursionError:
        raise ConfigError(f"{where}: this is not YAML: {DEEP}") from None
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001  # of PyYAML, which checks little: characters beyond Unicode, for one
        raise ConfigError(f"{where}: this is not YAML: {' '.join(str(error).split())[:200]}") from None
    finally:
        if loader is not None:
            loader.dispose()


def dump(data: Any) -> str:
    """Return plain data as YAML that :func:`parse` reads back."""
    return yaml.dump(data, Dumper=ConfigDumper, sort_keys=False, allow_unicode=True)


def _check_size(node: yaml.Node) -> None:
    if _size(node, {}, 0) > MOST:
        raise ComposerError(None, None, f"its aliases stand for more than {MOST} values", node.start_mark)


def _size(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """Return how many values a node stands for; refuse one that contains itself."""
    if depth > DEEPEST:
        raise ComposerError(None, None, DEEP, node.start_mark)
    if id(node) not in sizes:
        sizes[id(node)] = 0  # in the making: whoever meets it now is in it
        inner = [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else node.value
        parts = [] if isinstance(node, yaml.ScalarNode) else inner
        sizes[id(node)] = 1 + sum(_size(child, sizes, depth + 1) for child in parts)
    if sizes[id(node)] == 0:
        raise ComposerError(None, None, "an alias refers to a value that contains it", node.start_mark)
    return sizes[id(node)]


def _special(text: str) -> float:
    """Return a real number as YAML writes it."""
    return number.real(text.replace(".inf", "inf").replace(".nan", "nan"), "value", special=True)


BOOLEANS: Mapping[str, bool] = yaml.SafeLoader.bool_values
FORMS = (
    ("bool", re.compile("|".join(f"{w}|{w.title()}|{w.upper()}" for w in BOOLEANS)), "yYnNtTfFoO"),
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("int", CLOSED, "-+0123456789"),
    ("float", REAL, "-+0123456789."),
    ("merge", re.compile("<<"), "<"),
)
KINDS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "bool": ("true or false", lambda text: BOOLEANS[text.lower()]),
    "null": ("null", lambda text: {"~": None, "null": None, "": None}[text.lower()]),
    "int": ("an integer", lambda text: number.integer(text, "value")),
    "float": ("a number", lambda text: _special(text.lower())),
}


def _scalar(kind: str) -> Callable[[ConfigLoader, yaml.Node], Any]:
    return lambda loader, node: loader.scalar(node, *KINDS[kind])


for _kind, _form, _first in FORMS:
    _whole = re.compile(rf"(?:{_form.pattern})\Z")
    ConfigLoader.add_implicit_resolver(TAG + _kind, _whole, list(_first))
    ConfigDumper.add_implicit_resolver(TAG + _kind, _whole, list(_first))
for _kind in KINDS:
    ConfigLoader.add_constructor(TAG + _kind, _scalar(_kind))
ConfigLoader.add_constructor(TAG + "str", ConfigLoader.plain_text)
for _tag, _make in ((TAG + "seq", "yaml_seq"), (TAG + "map", "yaml_map"), (None, "undefined")):
    ConfigLoader.add_constructor(_tag, getattr(ConfigLoader, f"construct_{_make}"))
