"""Number formats, one file each; ``parse`` turns a text form into a format."""

from mase.formats.base import FORMATS, Axes, Code, Format, QuantParams, parse

__all__ = ["FORMATS", "Axes", "Code", "Format", "QuantParams", "parse"]
