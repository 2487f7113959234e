"""The subcommands of `python -m training.analyse`, one module each; `results` writes their results."""
