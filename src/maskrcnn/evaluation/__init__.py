"""How good the results are: COCO's average precision."""
