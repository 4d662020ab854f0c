"""Pure functions of tensors: boxes, sampling, suppression, region operators, masks, keypoints."""
