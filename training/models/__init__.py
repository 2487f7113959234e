"""Encoders, attention, heads, decoders, and the models built from them."""
