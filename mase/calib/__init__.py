"""Calibration: formats and their parameters from data."""
