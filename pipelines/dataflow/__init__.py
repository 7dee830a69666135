"""Rows through workers: over Ray Data, or in this process."""
