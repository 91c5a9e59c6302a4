"""What a decoder reports: events, the file that keeps them, and the figures that are computed from them."""
