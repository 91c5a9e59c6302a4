"""Adaptation: an autoregressive checkpoint becomes a block-diffusion model (NBDiff, arXiv 2512.06776)."""

import os

# Before torch is imported; nbdiff_engine does the same for the same reason.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
