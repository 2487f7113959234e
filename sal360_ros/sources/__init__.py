"""Frames with stamps out of pictures, folders, videos and bags: no ROS."""
