"""What consumers take from a saliency map: pure numpy, no ROS."""
