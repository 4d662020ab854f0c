"""Masks: training targets, pasting into an image, COCO's run lengths, polygons."""
