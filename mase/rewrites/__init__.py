"""Nodes that are the same as other nodes, which have hardware: one file each; the fuse pass asks them all."""
