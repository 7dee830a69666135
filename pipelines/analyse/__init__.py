"""The paper's analyses of prompts, similarity and label noise."""
