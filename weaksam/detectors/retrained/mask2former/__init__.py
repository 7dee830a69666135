"""Mask2Former, queries that are masks: ``model.py`` is the network, ``criterion.py`` what it is taught."""
