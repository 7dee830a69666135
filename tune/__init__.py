"""Sweeps over recipes: many trials of the stages of ``pipelines``, which share whatever they have in common."""
