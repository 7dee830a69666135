"""OICR's and MIST's training."""
