"""From an exported program to typed nodes: clean-up, then one small file of rules a kind (docs/families.md)."""
