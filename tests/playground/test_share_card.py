"""The card of a link to the page."""

from playground.header import TITLE
from playground.share_card import SENTENCE, with_card

PAGE = b"""<html><head><meta charset="utf-8" />
<meta property="og:title" content="Gradio" /><meta
    property="og:image"
    content="https://example.org/x.jpg" /><meta
    name="twitter:creator" content="@Gradio" /></head><body></body></html>"""


def test_the_card_is_ours_and_the_only_one() -> None:
    page = with_card(PAGE, 'https://host"><script>').decode()
    assert "Gradio" not in page
    assert "example.org" not in page
    assert page.count("og:image") == page.count("og:title") == 1
    assert f'<meta property="og:title" content="{TITLE}">' in page
    assert f'content="{SENTENCE}"' in page
    assert "<script>" not in page
    assert '<meta charset="utf-8" />' in page
