"""What the tabs share: the worker, the loaded models, the transport to the browser, the replay file."""
