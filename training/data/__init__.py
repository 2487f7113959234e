"""Training data: panoramas (`panoramas`, `shards`) as pairs of views (`views`), and human gaze (`gaze`), batched by
`loader`."""
