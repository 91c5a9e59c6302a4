"""The computation of the loss from packed documents: noising, both losses, and the attention of the training pass."""
