"""The page at /, in headless Chromium, against the scripted engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from server.browser import Browser, browsing, find_chromium
from server.running import Running, running
from server.saved_sessions import head, store_with
from server.scripted_engine import Reply

pytestmark = pytest.mark.skipif(
    find_chromium() is None,
    reason="no Chromium here; apt-get install chromium-headless-shell, or any Chromium or Chrome in the PATH",
)

ANSWER = "(e => e && e.innerText)([...document.querySelectorAll('.assistant')].at(-1)?.querySelector('.content'))"
IDLE = "!document.querySelector('#send').hidden"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("chromium")) as made:
        yield made


@contextmanager
def page(browser: Browser, script: Any, **options: Any) -> Iterator[Running]:
    """The page of a new server; its scripts must make no mistake."""
    browser.window(1100, 800)
    with running(script, **options) as server:
        browser.open(server.url + "/")
        browser.until("document.activeElement.id === 'text'")
        browser.mistakes.clear()
        yield server
        assert browser.mistakes == []
        browser.open("about:blank")


def ask(browser: Browser, text: str) -> None:
    browser.js("document.querySelector('#text').focus()")
    browser.type(text)
    browser.press("Enter")


def sent(server: Running, number: int = -1) -> list[dict[str, Any]]:
    """The messages of a request as the engine is to keep them."""
    return server.engine.requests[number].keeping.messages


def test_an_answer_streams_with_its_figures_and_folded_reasoning(browser: Browser) -> None:
    reply = Reply("Hello you there.", reasoning="A guest says hi.", delay=0.03, cached=5)
    with page(browser, reply) as server:
        ask(browser, "hi")
        browser.until("document.querySelector('details')?.open && document.querySelector('details div').innerText")
        assert browser.js("document.querySelector('#stop').hidden") is False
        browser.until(f"({ANSWER})?.startsWith('Hello')")
        browser.until(IDLE)
        assert browser.js(ANSWER) == "Hello you there."
        assert browser.js("document.querySelector('details').open") is False
        assert "Thought for" in browser.js("document.querySelector('summary').innerText")
        browser.click("summary")
        assert browser.js("document.querySelector('details div').innerText") == "A guest says hi."
        foot = browser.js("document.querySelector('.foot').innerText")
        assert "tokens/s" in foot
        assert f"prompt {len(server.engine.requests[0].prompt)}, 5 cached" in foot
        ask(browser, "and now?")
        browser.until("document.querySelectorAll('.assistant .foot').length === 2 && " + IDLE)
        said = [(message["role"], message["content"]) for message in sent(server)]
        assert said == [("user", "hi"), ("assistant", "Hello you there."), ("user", "and now?")]


def test_the_prompts_progress_is_shown(browser: Browser) -> None:
    with page(browser, Reply("Done.", prefill=0.15, chunks=4)):
        ask(browser, "a long question")
        browser.until("/Reading the prompt: \\d+ of \\d+ tokens/.test(document.querySelector('.reading').innerText)")
        browser.until("document.querySelector('progress').value > 0")
        browser.until(IDLE)
        assert browser.js("document.querySelector('.reading').offsetParent") is None


def test_escape_and_the_button_stop(browser: Browser) -> None:
    with page(browser, Reply("word " * 500, delay=0.01)) as server:
        for times, stop in enumerate((lambda: browser.press("Escape"), lambda: browser.click("#stop")), 1):
            ask(browser, "talk")
            browser.until(f"document.querySelectorAll('.assistant').length === {times} && ({ANSWER})")
            stop()
            browser.until(IDLE)
            assert browser.js("[...document.querySelectorAll('.foot')].at(-1).innerText").endswith("stopped")
        assert server.engine.cancelled + server.engine.running == 2
        assert sent(server)[1]["content"].startswith("word")  # what had come goes on counting


def test_a_question_stopped_before_its_answer_can_be_changed(browser: Browser) -> None:
    replies = chain([Reply("First.")], repeat(Reply("Late.", prefill=30)))
    with page(browser, lambda prompt, request: next(replies)) as server:
        ask(browser, "hi")
        browser.until(f"({ANSWER}) === 'First.' && {IDLE}")
        ask(browser, "what was it")
        browser.until("!document.querySelector('#stop').hidden")
        browser.press("Escape")
        browser.until("document.querySelector('#text').value === 'what was it'")
        assert browser.js("document.querySelectorAll('.turn').length") == 2
        assert "tokens" in browser.js("document.querySelector('.foot').innerText")
        browser.press("Enter")
        browser.until("!document.querySelector('#stop').hidden")
        browser.press("Escape")
        browser.until(IDLE)
        assert all(
            [m["content"] for m in one.keeping.messages] == ["hi", "First.", "what was it"]
            for one in server.engine.requests[1:]
        )


def test_shift_enter_is_a_new_line(browser: Browser) -> None:
    with page(browser, Reply("Yes.")) as server:
        browser.type("one")
        browser.press("Enter", shift=True)
        browser.type("two")
        browser.press("Enter")
        browser.until(f"({ANSWER}) === 'Yes.'")
        assert sent(server)[0]["content"] == "one\ntwo"


def test_markdown_is_shown_and_html_is_text(browser: Browser) -> None:
    text = """# Head

Some **bold**, *italic* and `code <b>`.

- one
- two
  - inner

1. first
2. second

```html
<script>window.broken = 1</script>
```

<img src=x onerror="window.broken = 1"> **<i onclick=x>y</i>** [a](javascript:window.broken=1)
```js
open <b>"""
    with page(browser, Reply(text, reasoning="<img src=x onerror='window.broken = 2'>")):
        ask(browser, "<img src=x onerror='window.broken = 3'>")
        browser.until(IDLE + f" && ({ANSWER})")
        content = "document.querySelector('.content')"
        tags = browser.js(f"[...{content}.querySelectorAll('*')].map(e => e.tagName).join(' ')")
        expected = "H3 P STRONG EM CODE UL LI LI UL LI OL LI LI PRE CODE P STRONG PRE CODE"
        assert tags == expected
        assert browser.js(f"{content}.querySelector('pre').innerText") == "<script>window.broken = 1</script>"
        assert browser.js(f"[...{content}.querySelectorAll('strong')].at(-1).innerText") == "<i onclick=x>y</i>"
        assert browser.js("document.querySelectorAll('#log img, #log a, #log i, #log script').length") == 0
        assert browser.js("window.broken") is None


def test_a_text_drawn_piece_by_piece_looks_as_if_drawn_at_once(browser: Browser) -> None:
    text = "A *b* **c\n\n- x\n- **y**\n\n  more\n\nend\n```\ncode\n```\n> said\n\n---\n## H\n1. a\n   - b\n2. c"
    with page(browser, Reply("x")):
        same = f"""(text => {{
            const grown = document.createElement('div'), whole = document.createElement('div');
            for (let n = 1; n <= text.length; n++) show(grown, text.slice(0, n));
            show(whole, text);
            return grown.innerHTML === whole.innerHTML && whole.children.length > 6;
        }})({json.dumps(text)})"""
        assert browser.js(same) is True


def test_errors_are_sentences_and_can_be_tried_again(browser: Browser) -> None:
    replies = iter([Reply("Half", fail="The device is out of memory."), Reply("Whole.")])
    with page(browser, lambda prompt, request: next(replies)) as server:
        ask(browser, "hi")
        browser.until("!document.querySelector('#alert').hidden")
        assert "The device is out of memory." in browser.js("document.querySelector('#alert').innerText")
        assert browser.js(ANSWER) == "Half"
        browser.click("#alert button")
        browser.until(f"({ANSWER}) === 'Whole.'")
        assert browser.js("document.querySelectorAll('.turn').length") == 2
        assert [message["role"] for message in sent(server)] == ["user"]


def test_a_full_queue_is_said(browser: Browser) -> None:
    with page(browser, Reply("x"), max_queue=0) as server:
        ask(browser, "hi")
        browser.until("document.querySelector('#alert').innerText.includes('The queue is full')")
        server.engine.max_queue = None
        browser.click("#alert button")
        browser.until(f"({ANSWER}) === 'x'")
        browser.mistakes.clear()  # the console tells of the 429


def test_the_key_is_asked_for_and_kept(browser: Browser) -> None:
    with running(Reply("Come in."), api_key="sesame") as server:
        browser.open(server.url + "/")
        browser.until("document.querySelector('#key').open")
        browser.type("wrong")
        browser.press("Enter")
        browser.until("document.querySelector('#key-title').innerText.startsWith('That was not')")
        browser.type("sesame")
        browser.press("Enter")
        browser.until("!document.querySelector('#key').open")
        ask(browser, "hi")
        browser.until(f"({ANSWER}) === 'Come in.'")
        browser.call("Page.reload")
        browser.until("document.querySelector('#nothing')?.hidden === false")  # the list came, without asking
        assert browser.js("document.querySelector('#key').open") is False
        browser.open("about:blank")
        browser.mistakes.clear()


def test_sessions_are_listed_opened_and_gone_on_with(browser: Browser, tmp_path: Path) -> None:
    held = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "What is <b>bold</b>?"},
        {"role": "assistant", "content": "A **style**.", "reasoning_content": "Hm."},
    ]
    store = store_with(
        tmp_path / "kv", head(1, held, title="What is bold?", options={"thinking": False}), head(2, None, name="notes")
    )
    with page(browser, Reply("More."), sessions=store) as server:
        browser.until("document.querySelectorAll('#sessions button').length === 2")
        shown = browser.js("document.querySelector('#sessions').innerText")
        assert "notes" in shown
        assert "What is bold?" in shown
        assert "101 tokens" in shown
        browser.click("#sessions li:nth-child(2) button")
        browser.until("document.querySelectorAll('.turn').length === 3")
        assert browser.js("document.querySelector('.user').innerText") == "What is <b>bold</b>?"
        assert browser.js("document.querySelector('.content strong').innerText") == "style"
        assert browser.js("document.querySelector('#think').checked") is False
        assert browser.js("document.querySelectorAll('#sessions [aria-current]').length") == 1
        ask(browser, "go on")
        browser.until(f"({ANSWER}) === 'More.'")
        assert [message["content"] for message in sent(server)] == [m["content"] for m in held] + ["go on"]
        assert server.engine.requests[0].thinking is False
        browser.click("#sessions li:nth-child(1) button")
        browser.until("document.querySelector('#alert').innerText.includes('no conversation')")
        browser.click("#new")
        assert browser.js("document.querySelectorAll('.turn, #sessions [aria-current]').length") == 0


def test_a_new_chat_stops_the_answer_and_forgets(browser: Browser) -> None:
    replies = iter([Reply("word " * 500, delay=0.01), Reply("Fresh.")])
    with page(browser, lambda prompt, request: next(replies)) as server:
        ask(browser, "talk")
        browser.until(ANSWER)
        browser.click("#new")
        ask(browser, "hi")
        browser.until(f"({ANSWER}) === 'Fresh.'")
        assert [message["content"] for message in sent(server)] == ["hi"]
        assert browser.js("document.querySelectorAll('.turn').length") == 2


def test_a_phone_has_all_of_it(browser: Browser, tmp_path: Path) -> None:
    code = "```\n" + "x" * 300 + "\n```\n" + "y" * 300
    with page(browser, Reply(code), sessions=store_with(tmp_path / "kv", head(1, [], title="old"))):
        browser.window(375, 667, phone=True)
        ask(browser, "hi")
        browser.until(IDLE + f" && ({ANSWER})")
        assert browser.js("document.documentElement.scrollWidth") == 375
        assert browser.js("document.querySelector('#log').scrollWidth <= 375") is True
        assert browser.js("document.querySelector('#send').getBoundingClientRect().right <= 375") is True
        browser.until("getComputedStyle(document.querySelector('#side')).visibility === 'hidden'")
        browser.click("#menu")
        browser.until("document.querySelector('#side').getBoundingClientRect().left === 0")
        browser.click("#sessions button")
        browser.until("document.querySelector('#side').getBoundingClientRect().right <= 0")
        assert browser.js("document.querySelectorAll('.turn').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(browser: Browser, scheme: str) -> None:
    """WCAG AA: 4.5 to 1."""
    contrast = """(() => {
        const value = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
        const light = hex => {
            const full = hex.length === 4 ? [...hex.slice(1)].map(c => c + c).join('') : hex.slice(1);
            const part = i => parseInt(full.slice(i, i + 2), 16) / 255;
            const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
            return .2126 * linear(part(0)) + .7152 * linear(part(2)) + .0722 * linear(part(4));
        };
        const pairs = [['--text', '--back'], ['--faint', '--back'], ['--faint', '--side'], ['--faint', '--mine'],
            ['--text', '--mine'], ['--text', '--code'], ['--on-accent', '--accent'], ['--wrong', '--wrong-back']];
        return Math.min(...pairs.map(pair => {
            const [a, b] = pair.map(value).map(light).sort((x, y) => y - x);
            return (a + .05) / (b + .05);
        }));
    })()"""
    with page(browser, Reply("x")):
        browser.scheme(scheme)
        assert browser.js(contrast) >= 4.5
        dark = browser.js("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark is (scheme == "dark")
    browser.scheme("light")


def test_everything_has_a_name(browser: Browser) -> None:
    """As the browser tells it to a screen reader."""
    with page(browser, Reply("x")):
        nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "checkbox", "log", "navigation", "list", "status"}
    unnamed = [
        node["role"]["value"]
        for node in nodes
        if not node.get("ignored") and node["role"]["value"] in roles - {"status"} and not node["name"]["value"]
    ]
    assert unnamed == []


def test_the_page_needs_nothing_from_elsewhere() -> None:
    with running() as server:
        response = server.client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    outside = [part for part in ("http://", "https://", "src=", "@import") if part in response.text]
    assert [part for part in outside if part != "http://"] == []
    assert response.text.count("http://") == 1  # the name of SVG, in the icon
