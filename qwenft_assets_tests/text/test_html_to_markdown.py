"""What users post becomes Markdown, and code keeps every character."""

import html
import re

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets.text.html_to_markdown import to_markdown

SITES = PROJECT_ROOT / "data/samples/HuggingFaceH4/stack-exchange-preferences/data"
CODE_BLOCK = re.compile(r"<pre[^>]*>\s*<code[^>]*>(.*?)</code>\s*</pre>", re.DOTALL)
CODE = "def f(a, b):\n    if a < b and a & b:\n\n\n\n\t\treturn 'a*b_c'\n---\n# no heading"


@pytest.mark.parametrize(
    ("post", "markdown"),
    [
        pytest.param("", "", id="empty"),
        pytest.param(" \n\t ", "", id="blank"),
        pytest.param("<p></p>", "", id="empty-paragraph"),
        pytest.param("a < b & c", "a < b & c", id="plain-text"),
        pytest.param("a\n\n\n\nb", "a\n\nb", id="blank-lines"),
        pytest.param("a*b_c $a_1$ # no", "a*b_c $a_1$ # no", id="no-stray-escapes"),
        pytest.param("<p>one</p><p>two</p>", "one\n\ntwo", id="paragraphs"),
        pytest.param("<p>3 &lt; 4 &amp;&amp; &copy; &#176;</p>", "3 < 4 && © °", id="entities"),
        pytest.param("<p><b>b</b> <em>i</em></p>", "**b** *i*", id="emphasis"),
        pytest.param("<h2>Why</h2><p>so</p>", "## Why\n\nso", id="heading"),
        pytest.param("<p>a</p><hr><p>b</p>", "a\n\n---\n\nb", id="rule-is-no-heading"),
        pytest.param("<blockquote><p>q</p></blockquote>", "> q", id="quotation"),
        pytest.param("<p>use <code>x_y</code></p>", "use `x_y`", id="inline-code"),
        pytest.param('<a href="http://x.y/z">here</a>', "[here](http://x.y/z)", id="link"),
        pytest.param("<ul><li>a</li><li>b</li></ul>", "- a\n- b", id="list"),
        pytest.param(
            "<ol><li>a<ul><li>x</li><li>y</li></ul></li><li>b</li></ol>",
            "1. a\n   - x\n   - y\n2. b",
            id="nested-list",
        ),
        pytest.param("10<sup>6</sup> Hz", "10^6 Hz", id="power"),
        pytest.param("10<SUP>-6</SUP> s", "10^-6 s", id="negative-power"),
        pytest.param("H<sub>2</sub>O", "H_2O", id="index"),
        pytest.param("x<sup>n+1</sup>", "x^(n+1)", id="power-of-several-symbols"),
        pytest.param('<p>see <img src="a.png" alt="LLM"> it</p>', "see it", id="image-in-text"),
        pytest.param('<p><img src="a.png" alt="scope"></p>', "", id="image-only"),
        pytest.param(
            '<a href="http://x/a.png"><img src="http://x/a.png"></a>', "", id="linked-image-only"
        ),
        pytest.param("<script>alert(1)</script>safe", "safe", id="script"),
        pytest.param("<style>p {color: red}</style>safe", "safe", id="style"),
        pytest.param("a<!-- hidden -->b", "ab", id="comment"),
        pytest.param("<p>open <b>bold", "open **bold**", id="unclosed"),
        pytest.param("</div></p>text<", "text<", id="stray-closing"),
        pytest.param("<p>电压 &gt; 3 伏</p>", "电压 > 3 伏", id="chinese"),
    ],
)
def test_html_becomes_markdown(post, markdown):
    assert to_markdown(post) == markdown


@pytest.mark.parametrize(
    ("before", "after", "prefix"),
    [
        pytest.param("", "", "", id="alone"),
        pytest.param("<p>before</p>", "<p>after</p>", "", id="between-paragraphs"),
        pytest.param("<blockquote><p>q</p>", "</blockquote>", "> ", id="in-a-quotation"),
        pytest.param("<ul><li>a", "</li></ul>", "  ", id="in-a-list"),
        pytest.param("<ol><li><p>a</p>", "</li><li>b</li></ol>", "   ", id="in-a-numbered-list"),
        pytest.param("<ul><li>", "</li></ul>", "  ", id="first-thing-of-a-list"),
    ],
)
@pytest.mark.parametrize("language", ["", ' class="lang-py prettyprint-override"'])
def test_code_keeps_every_character(before, after, prefix, language):
    post = f"{before}<pre{language}><code>{html.escape(CODE)}\n</code></pre>{after}"
    lines = to_markdown(post).split("\n")
    opened, closed = (n for n, line in enumerate(lines) if "```" in line)
    # A blank line carries the prefix without its last space.
    code = [line.removeprefix(prefix).removeprefix(prefix.rstrip()) for line in lines]
    assert "\n".join(code[opened + 1 : closed]) == CODE


def test_code_that_holds_fences_gets_longer_ones():
    code = "```\na\n\n\n\nb\n```"
    assert to_markdown(f"<p>x</p><pre><code>{code}</code></pre>") == f"x\n\n````\n{code}\n````"


def test_blank_lines_collapse_outside_code_only():
    post = "<p>a</p>\n\n\n\n<p>b</p><pre><code>c\n\n\n\nd</code></pre>\n\n\n<p>e</p>"
    assert to_markdown(post) == "a\n\nb\n\n```\nc\n\n\n\nd\n```\n\ne"


def test_markup_shown_as_code_is_not_converted():
    post = "<pre><code>&lt;sup&gt;2&lt;/sup&gt; &lt;b&gt;</code></pre>"
    assert to_markdown(post) == "```\n<sup>2</sup> <b>\n```"


TAGS = ["<p>", "</p>", "<pre>", "<code>", "</code>", "</pre>", "<li>", "<ul>", "<sup>", "</sup>"]
PIECES = st.sampled_from([*TAGS, "<", ">", "&", "&lt;", "\n", "`", "```", "---", "<!--", "x", " "])


@given(st.text(max_size=300) | st.lists(PIECES, max_size=60).map("".join))
@settings(deadline=None, max_examples=300)
@example("<pre><code>```")
@example("<sup>" * 200)
@example("\0")
def test_anything_gives_text_without_an_error(post):
    markdown = to_markdown(post)
    assert markdown == markdown.strip()


def bundled_posts() -> list[str]:
    posts: list[str] = []
    for path in sorted(SITES.rglob("*.parquet")):
        table = pq.read_table(path, columns=["question", "answers"])
        for row in table.to_pylist():
            posts += [row["question"], *(answer["text"] for answer in row["answers"])]
    return posts


def test_every_code_block_of_the_bundled_posts_is_unchanged():
    blocks = 0
    for post in bundled_posts():
        markdown = to_markdown(post)
        for found in CODE_BLOCK.findall(post):
            code = html.unescape(found).strip("\n")
            assert f"\n{code}\n```" in markdown
            blocks += 1
    assert blocks >= 20


def test_bundled_posts_leave_no_html_behind():
    for post in bundled_posts():
        prose = re.sub(
            r"^( *)```.*?```$|`[^`]*`", "", to_markdown(post), flags=re.DOTALL | re.MULTILINE
        )
        assert not re.search(
            r"</?(?:p|code|pre|em|strong|li|ul|ol|a|blockquote)\b[^>]*>|&(?:lt|amp|gt|quot);", prose
        )
