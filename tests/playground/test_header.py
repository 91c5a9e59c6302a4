"""The links under the title."""

from email.message import Message

import pytest

from playground import header


def package(*addresses: str) -> Message:
    found = Message()
    for each in addresses:
        found["Project-URL"] = each
    return found


@pytest.mark.parametrize(
    ("space", "addresses", "link"),
    [
        ("", (), None),
        ("", ("Documentation, https://docs.example.org", "Source, javascript:alert(1)"), None),
        (
            "",
            ("Documentation, https://docs.example.org", "Source, https://example.org/code"),
            "https://example.org/code",
        ),
        ("me/page", ("Source, https://example.org/code",), "https://huggingface.co/spaces/me/page/tree/main"),
    ],
)
def test_the_source_is_linked_where_it_has_an_address(space, addresses, link, monkeypatch) -> None:
    monkeypatch.setenv("SPACE_ID", space)
    monkeypatch.setattr(header, "metadata", lambda name: package(*addresses))
    shown = header.header()
    assert f'<a href="{header.PAPER}">Paper</a>' in shown
    assert (f'<a href="{link}">Source</a>' in shown) == (link is not None)
    assert ("Source</a>" in shown) == (link is not None)


def test_a_checkout_that_is_not_installed_has_no_link_to_its_source(monkeypatch) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.setattr(header, "_PACKAGE", "a-package-that-does-not-exist")
    assert header.source_address() is None
