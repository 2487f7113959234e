"""What training sees: panoramas (`panoramas`, `shards`) as pairs of views (`views`), human gaze (`gaze`); in batches
by `loader`."""
