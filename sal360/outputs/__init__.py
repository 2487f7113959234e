"""What is made of a map: smoothed over time, targets, shading rates, quantiser offsets, perspective maps, overlays."""
