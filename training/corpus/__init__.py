"""The project's own instruction data: generated problems of four domains, with answers that can be checked."""
