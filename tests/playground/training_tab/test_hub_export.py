"""The upload of a job's model to the hub. Nothing leaves this machine here: `send` is replaced."""

import gradio as gr
import pytest

from playground.options import ServerOptions
from playground.training_tab import hub_export
from playground.training_tab.form import JobForm
from playground.training_tab.watch import Watch
from tests.playground.training_tab.forms import filled
from tests.training.jobs.conftest import in_state
from training.jobs import Jobs


def test_a_model_is_uploaded_after_what_would_leave_was_shown(
    form: JobForm, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, watch = in_state(jobs, form.submit(*filled()), "finished"), Watch(jobs, uploads=True)
    with gr.Blocks():
        watch.build()
    hub, said = watch.hub, watch.said
    sent = []
    monkeypatch.setattr(hub_export, "send", lambda upload: sent.append(upload.repo) or "https://hub.example/commit")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for repo, sentence in (
        ("no owner", "Repository: &#x27;no owner&#x27; is"),
        (None, "Repository: it is missing; give the owner"),
        ("me/mine", "HF_TOKEN"),
    ):
        *_, refusal = hub.asked(job.id, "final", repo, False)
        assert sentence in refusal[said]
    monkeypatch.setenv("HF_TOKEN", "secret")
    *_, plan = hub.asked(job.id, "final", "me/mine", False)
    assert "config.json" in plan[hub.plan]
    assert "/me/mine, which only its owner can read" in plan[hub.plan]
    assert (plan[hub.confirmation]["visible"], sent) == (True, [])
    *_, done = hub.sent(plan[hub.waiting])
    assert sent == ["me/mine"]
    assert "https://hub.example/commit" in done[said]
    assert next(iter(hub.sent(None)))[hub.waiting] is None


def test_uploads_need_the_hub_and_the_person_at_this_machine() -> None:
    assert hub_export.allowed(ServerOptions(hub=True))
    assert not hub_export.allowed(ServerOptions())
    assert not hub_export.allowed(ServerOptions(hub=True, host="0.0.0.0", login="a:b"))
