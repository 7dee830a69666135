"""Detectors, in two families: those that learn from proposals and image-level labels, and those retrained on their findings.

    mil        MIL_DETECTORS   proposals and image-level labels in, classified and scored boxes out   MilConfig
    retrained  RETRAINED       pseudo ground truth in, classified and scored boxes out                RetrainConfig

``loading.py`` builds, writes and reads a detector of either, the ``samples.py`` of each family feeds it, ``inference.py`` runs
it over images. To add one: a file with its options and its class, which the options name, and a line in its family's registry.
"""
