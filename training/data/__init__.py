"""Training data: from files, hub data sets, the corpus or the base's own answers to packed documents."""
