"""Data sets of human gaze, from their files to training samples; `datasets` has the table of them and is read first."""
