"""Panoramas and their maps in a browser: one page, which holds its pictures or shows a stream of them."""
