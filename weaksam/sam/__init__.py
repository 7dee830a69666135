"""The Segment Anything model: whose it is, how it is prompted in batches, and the small one that ships."""
