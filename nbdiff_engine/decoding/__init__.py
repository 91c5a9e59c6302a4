"""Decoding strategies and what they need: settings, prompts, the plan of a call, the loop over rows."""
