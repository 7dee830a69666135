"""Proposals: clue maps prompt SAM, its masks become boxes; Selective Search beside it."""
