"""Runtimes that execute a model file, one small class each; `open_model` chooses."""
