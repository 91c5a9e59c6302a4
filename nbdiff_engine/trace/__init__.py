"""The events that a decoder reports, the trace file that stores them, and the metrics computed from them."""
