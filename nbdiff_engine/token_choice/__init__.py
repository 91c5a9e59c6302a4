"""From logits to tokens (sampling), and from predictions to positions (unmasking). Knows no model."""
