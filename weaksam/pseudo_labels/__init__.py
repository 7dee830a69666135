"""Pseudo labels: detections that a detector may learn from."""
