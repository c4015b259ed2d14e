"""The format zoo: pictures of bit layouts, values and measures of every format, written into ``docs/formats.md``.

Run ``python -m mase.formats.zoo docs`` after a change; a test finds a page that is not up to date.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mase.formats.base import FORMATS, Format, parse
from mase.formats.svg import COLOURS, INK, Picture

TABLE = (
    *("fixed8.4", "ufixed8.4", "fixed4.2", "int8", "int8c", "int8p", "int4", "int4g128", "int4g32a", "int4g32a_fp16"),
    *("e4m3", "e5m2", "e4m3t", "e3m2", "e2m3", "e2m1", "mxint8", "mxint8b16e4", "mxint6", "mxint4b16", "mxfp8e4m3"),
    *(
        "mxfp8e5m2",
        "mxfp6e3m2",
        "mxfp6e2m3",
        "mxfp4",
        "mxfp4_xrceil",
        "nvfp4",
        "bfp8",
        "bfp6",
        "bfp4",
        "bm8e4",
        "bm6e2",
    ),
    *(
        "bm4e2",
        "log4",
        "log8",
        "bl4",
        "bl8",
        "ternary",
        "ternaryc",
        "binary",
        "binaryc",
        "nf4",
        "nf3",
        "nf2",
        "nfq4",
        "nfq4s",
    ),
)
SMALL: Mapping[str, str] = {  # whose values a page can show
    "fixed": "fixed3.1",
    "int": "int3",
    "minifloat": "e2m1",
    "mxint": "mxint4",
    "mxfp": "mxfp4",
    "nvfp4": "nvfp4",
    "bfp": "bfp4",
    "bm": "bm4e2",
    "log": "log4",
    "bl": "bl4",
    "binary": "binary",
    "ternary": "ternary",
    "nf": "nf3",
    "nfq": "nfq3",
    "codebook": "codebook[-1,-0.25,0.25,1]",
}
DRAWN: Mapping[str, str] = {  # whose bits are drawn, where the default is not telling
    "int": "int4g32a",
    "mxfp": "mxfp6e2m3",
    "mxint": "mxint8b16e4",
    "nfq": "nfq4s",
}
WHOLE_FIELD = 16  # bits up to which each is drawn
CELL, HEIGHT, MARGIN, GAP = 26, 34, 16, 44


def gaussian(seed: int = 0) -> Tensor:
    """Return 256 x 1024 numbers of unit variance."""
    return torch.randn(256, 1024, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def laplace(seed: int = 0) -> Tensor:
    """Return 256 x 1024 numbers of unit variance with heavier tails."""
    uniform = torch.rand(256, 1024, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5
    return -torch.sign(uniform) * torch.log1p(-2 * uniform.abs()) / 2**0.5


def sqnr(fmt: Format, x: Tensor) -> float:
    """Return the signal-to-quantization-noise ratio in dB, parameters calibrated on ``x`` (channels on axis 0)."""
    axis = 0 if getattr(fmt, "channel", False) or getattr(fmt, "per", "") == "channel" else -1
    noise = fmt.quantize(x, fmt.calibrate(x, axis)) - x
    return float(10 * torch.log10(x.square().sum() / noise.square().sum()))


def bit_picture(fmt: Format) -> str:
    """Return an SVG of the stored bits: the fields of an element, then those that it shares."""
    layout = fmt.layout()
    groups = [(layout.element, "element")] + ([(layout.shared, f"one a {layout.sharing}")] if layout.shared else [])
    widths = [sum(_extent(bits) for _, bits in fields) for fields, _ in groups]
    picture = Picture(2 * MARGIN + sum(widths) + GAP * (len(groups) - 1), 96, f"Stored bits of {fmt}")
    x, colour = float(MARGIN), 0
    for (fields, caption), width in zip(groups, widths, strict=True):
        picture.text(x + width / 2, 88, caption, 11)
        for name, bits in fields:
            _field(picture, x, name, bits, COLOURS[colour % len(COLOURS)])
            x, colour = x + _extent(bits), colour + 1
        x += GAP
    return str(picture)


def _extent(bits: int) -> float:
    return max(float(CELL * bits), 40.0) if bits <= WHOLE_FIELD else 4.5 * CELL


def _field(picture: Picture, x: float, name: str, bits: int, colour: str) -> None:
    width = _extent(bits)
    cells = bits if bits <= WHOLE_FIELD else 1
    for i in range(cells):
        picture.box(x + i * width / cells, 30, width / cells, HEIGHT, colour, 0.28)
        label = f"{bits} bits" if bits > WHOLE_FIELD else str(bits - 1 - i)
        picture.text(x + (i + 0.5) * width / cells, 52, label, 11)
    picture.text(x + width / 2, 22, name if len(name) * 6.2 < width + 8 else _short(name), 11, colour=INK)


def _short(name: str) -> str:
    return "".join(word[:3] for word in name.split())[:4]


def values(fmt: Format) -> str:
    """Return the distinct values of an element at scale 1, those below zero left out where they mirror the others."""
    distinct = sorted({value + 0.0 for value in fmt.values().tolist() if value == value and abs(value) != float("inf")})
    mirrored = all(-value in distinct for value in distinct)
    shown = [value for value in distinct if value >= 0] if mirrored else distinct
    return ("± " if mirrored else "") + ", ".join(f"{value:.6g}" for value in shown)


def table() -> str:
    """Return the overview of text forms, stored bits and noise."""
    rows = ["| format | bits an element | SQNR Gaussian, dB | SQNR Laplace, dB |", "| --- | ---: | ---: | ---: |"]
    normal, heavy = gaussian(), laplace()
    for text in TABLE:
        fmt = parse(text)
        bits = fmt.bits(
            (4096, 4096), 0 if getattr(fmt, "channel", False) or getattr(fmt, "per", "") == "channel" else -1
        )
        rows.append(f"| `{text}` | {bits:.4g} | {sqnr(fmt, normal):.1f} | {sqnr(fmt, heavy):.1f} |")
    return "\n".join(rows)


def grammar() -> str:
    """Return the grammar of all text forms."""
    names = list(FORMATS)
    rules = [f"form      = ( {' | '.join(names)} ) {{ '_' word }} ;", ""]
    rules += [f"{name:<9} = {FORMATS[name].ebnf} ;" for name in names]
    rules += ["", "tile      = nat { 'x' nat } ;", "number    = a decimal number such as -0.25 or 1e-3 ;"]
    rules += ["int       = [ '-' ] nat ;", "nat       = digit { digit } ;"]
    return "```ebnf\n" + "\n".join(rule.replace("'", '"') for rule in rules) + "\n```"


def words() -> str:
    """Return the words, what each sets, and the formats that know it."""
    users: dict[tuple[str, str], list[str]] = {}
    for name in FORMATS:
        for word, (field, value) in FORMATS[name].words.items():
            users.setdefault((word, f"{field} = {value}"), []).append(name)
    rows = [f"| `_{word}` | {setting} | {', '.join(names)} |" for (word, setting), names in sorted(users.items())]
    return "\n".join(["| word | sets | in |", "| --- | --- | --- |", *rows])


def gallery() -> str:
    """Return a section a format: what it is, its bits, its values, its parameters in hardware."""
    return "\n\n".join(_section(name) for name in FORMATS)


def _section(name: str) -> str:
    cls = FORMATS[name]
    about = inspect.cleandoc(cls.__doc__ or "").partition("\n\nArgs:")[0]
    if cls.chosen:
        return f"### {name}: `{cls()}`\n\n{about}"
    drawn, small = parse(DRAWN.get(name, str(cls()))), parse(SMALL[name])
    hardware = ", ".join(f"{key} {value}" for key, value in drawn.sv_params().items())
    return "\n".join(
        [
            f"### {name}: `{cls()}`",
            "",
            about.replace("``", "`").replace("**", "^").replace(" * ", " x "),
            "",
            f"![stored bits of {drawn}](formats/{name}.svg)",
            "",
            f"- Stored bits an element of `{drawn}`: {drawn.bits((4096, 4096)):.4g}. In hardware: {hardware}.",
            f"- Values of `{small}` at scale 1: {values(small)}.",
        ]
    )


BLOCKS: Mapping[str, Callable[[], str]] = {"table": table, "grammar": grammar, "words": words, "gallery": gallery}
MARK = re.compile(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def filled(page: str) -> str:
    """Return a page with its generated blocks made anew."""
    return MARK.sub(lambda match: f"<!-- generated: {match[1]} -->\n{BLOCKS[match[1]]()}\n<!-- end -->", page)


def pictures() -> dict[str, str]:
    """Return the bit picture of every format by file name."""
    drawn = [name for name in FORMATS if not FORMATS[name].chosen]
    return {f"{name}.svg": bit_picture(parse(DRAWN.get(name, str(FORMATS[name]())))) for name in drawn}


def write(docs: Path) -> None:
    """Write the page and its pictures below ``docs``."""
    page, folder = docs / "formats.md", docs / "formats"
    folder.mkdir(exist_ok=True)
    for name, svg in pictures().items():
        (folder / name).write_text(svg, encoding="utf-8")
    page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
