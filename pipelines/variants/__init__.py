"""Named settings of a recipe, run and compared: the paper's tables."""
