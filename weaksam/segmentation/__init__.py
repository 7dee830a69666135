"""Semantic segmentation from image labels: superpixels of SAM's masks, and seeds that they make of activation maps."""
