"""The project's own instruction data: four domains, written as they are read, with answers that can be checked."""
