"""The engine as a model of lm-evaluation-harness (extra `eval`). Nothing else here imports lm_eval.

    python -m nbdiff_engine lm-eval run --model nbdiff --model_args model=nano,strategy=ar --tasks gsm8k

lm_eval 0.4.13 looks for no entry points of other packages, so its own `lm_eval` command cannot know this model; the
command above registers it and hands over. In Python: `register()`, then `lm_eval.simple_evaluate(model="nbdiff", ...)`.
"""

from nbdiff_engine.harness.command import register

__all__ = ["register"]
