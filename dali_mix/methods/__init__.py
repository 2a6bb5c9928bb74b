"""Training steps that mix, and what they ask of a model."""
