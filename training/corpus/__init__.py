"""The project's own instruction data: problems of four domains, each with an answer that can be checked."""
