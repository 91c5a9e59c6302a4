"""From files, hub data sets or the base's own answers to packed documents."""
