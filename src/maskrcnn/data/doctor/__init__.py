"""Checks of a COCO data set that read everything leniently and list all faults, not the first."""
