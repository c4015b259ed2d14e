"""What others wrote, by hand or by program: it comes in as data of a known kind and size, or one line says why not.

One file a kind of text: files and paths, numbers, JSON, YAML, arrays and tensors. Nobody else decodes these.
"""
