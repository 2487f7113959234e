"""Video encoding that spends bits where people look: encoders, regions of interest, files, and what they gain."""
