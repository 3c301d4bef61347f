"""Training: data, degradations, losses and the loop."""
