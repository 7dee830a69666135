"""Semantic segmentation from image labels: superpixels, seeds that they make of activation maps, and segmenters."""
