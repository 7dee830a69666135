"""Measures: proposal recall and overlap, classification mean average precision, detection (VOC, COCO), CorLoc and masks."""
