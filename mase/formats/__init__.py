"""Number formats, one file each; ``parse`` turns a text form into a format."""

from mase.formats.base import FORMATS, Code, Format, QuantParams, parse

__all__ = ["FORMATS", "Code", "Format", "QuantParams", "parse"]
