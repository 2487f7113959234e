"""What the encoders and models have learnt: the tables and figures of the paper's supplementary."""
