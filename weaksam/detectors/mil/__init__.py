"""Detectors that learn from image labels: OICR, MIST."""
