"""Seeds: label maps of the training images, made of maps of their classes."""
