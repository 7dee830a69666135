"""Predictions of what a finished run has trained, for new pictures: boxes, masks or label maps."""
