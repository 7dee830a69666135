"""DINO, a detection transformer, with query drop: ``model.py`` is the network, ``criterion.py`` what it is taught."""
