"""The engine as a model of lm-evaluation-harness (extra `eval`). Only this folder imports lm_eval."""
