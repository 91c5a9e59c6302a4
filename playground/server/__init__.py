"""Code that all tabs use: the worker, the loaded models, the transport to the browser, the replay file."""
