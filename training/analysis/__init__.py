"""The subcommands of `python -m training.analyse`, one module each; `results` writes what they find."""
