"""CLIP's towers and what is read off them: class activation maps and the affinity of patches."""
