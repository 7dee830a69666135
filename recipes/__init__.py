"""Shipped recipes: YAML files, found by name through ``pipelines.recipe.model``."""
