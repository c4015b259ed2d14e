"""Pictures as text: the few shapes that bit layouts and curves need."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

INK, GREY, PAPER = "#1f2933", "#9aa5b1", "#ffffff"
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b83280", "#975a16", "#0987a0", "#4a5568")


class Picture:
    """A canvas that collects shapes; coordinates are pixels, y downward."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self._size, self._title = (width, height), title
        self._shapes: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, fill: str, opacity: float = 1.0) -> None:
        """Draw a rectangle with a thin outline."""
        self._shapes.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}" '
            f'fill-opacity="{opacity:g}" stroke="{INK}" stroke-width="0.8"/>'
        )

    def text(self, x: float, y: float, text: str, size: int = 12, anchor: str = "middle", colour: str = INK) -> None:
        """Write text whose base line is at ``y``."""
        self._shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">'
            f"{escape(text)}</text>"
        )

    def line(self, points: Sequence[tuple[float, float]], colour: str = INK, width: float = 1.0) -> None:
        """Draw a line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._shapes.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}" '
            'stroke-linejoin="round"/>'
        )

    def __str__(self) -> str:
        """Return the file's content."""
        width, height = self._size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}" font-family="sans-serif" role="img" aria-label="{escape(self._title, quote=True)}">'
        )
        paper = f'<rect width="{width:g}" height="{height:g}" fill="{PAPER}"/>'
        return "\n".join([head, f"<title>{escape(self._title)}</title>", paper, *self._shapes, "</svg>"]) + "\n"
