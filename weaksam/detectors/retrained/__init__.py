"""Detectors that learn from pseudo labels: Faster R-CNN, DINO."""
