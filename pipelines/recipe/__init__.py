"""Recipes: the model, the YAML files it is read from, and what is wrong with them."""
