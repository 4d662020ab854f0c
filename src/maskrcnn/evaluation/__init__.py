"""Accuracy of detections: AP as COCO, LVIS and Cityscapes define it, its uncertainty, and error reports."""
