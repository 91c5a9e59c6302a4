"""A checkpoint as a BlockModel: its spec, its loading, its attention masks, its KV cache and its forward."""
