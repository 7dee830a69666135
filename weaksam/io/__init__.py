"""Files, images and weights, wherever they lie."""
