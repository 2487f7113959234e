"""Outputs derived from a map: temporal smoothing, targets, shading rates, QP offsets, perspective maps, overlays."""
