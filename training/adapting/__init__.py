"""The parts of `training.adapt`: pictures with gaze, the ending that is fitted, its fit and its report."""
