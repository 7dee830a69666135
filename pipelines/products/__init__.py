"""What finished stage instances leave behind, a class for each kind: the only readers of its files and of its facts."""
