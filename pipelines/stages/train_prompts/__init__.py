"""The training of prompts."""
