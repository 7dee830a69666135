"""Measures: proposal recall, classification mean average precision, detection (VOC, COCO) and CorLoc."""
