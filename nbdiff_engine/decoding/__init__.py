"""Decoding strategies, and their settings, prompts, the plan of a call, and the loop over rows."""
