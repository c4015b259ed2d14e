"""Packed weights in the layouts of other tools: one file a layout (docs/ptq/export.md)."""
