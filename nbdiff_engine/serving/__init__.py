"""An OpenAI-compatible HTTP server over one model: a thread that decodes, and routes that ask it."""
