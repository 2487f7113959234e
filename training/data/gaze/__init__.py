"""Human gaze by its settings: what a decoder trains on and what it is measured on."""
