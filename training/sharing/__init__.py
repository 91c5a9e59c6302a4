"""A trained model as files that other programs load: exports, their checks and cards, and the upload to the hub."""
