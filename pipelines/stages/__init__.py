"""The stages that make something, one file or folder each."""
