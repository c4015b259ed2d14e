"""Post-training quantization: one file for each method (docs/ptq.md)."""
