"""One-off scripts, such as the trainings of the small models that are shipped."""
