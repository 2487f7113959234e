"""Encoders, attention, heads, decoders and the models built of them."""
