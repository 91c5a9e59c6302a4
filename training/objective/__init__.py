"""From packed documents to a loss: noising, the losses, and the attention of the training pass."""
