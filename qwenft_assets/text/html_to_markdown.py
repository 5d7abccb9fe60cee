"""HTML as users post it, to Markdown as a model should read it."""

import re
from typing import Any, Final

import html_to_markdown._html_to_markdown as compiled
from html_to_markdown import ConversionOptions
from html_to_markdown.api import (
    _to_rust_conversion_options,  # pyright: ignore[reportPrivateUsage]
)

# The public convert() translates its options anew at each call, which takes three times as long as
# converting a post does.
_OPTIONS: Final[Any] = _to_rust_conversion_options(
    ConversionOptions(
        heading_style="atx",
        code_block_style="backticks",
        extract_metadata=False,
        skip_images=True,
        autolinks=False,
    )
)
_RAISED_OR_LOWERED: Final = re.compile(r"<(sup|sub)>(.{0,200}?)</\1>", re.DOTALL | re.IGNORECASE)
# As Stack Exchange shows images: the converter drops the image and would keep the link.
_LINKED_IMAGE: Final = re.compile(r"<a\b[^>]*>\s*<img\b[^>]*>\s*</a>", re.IGNORECASE)
_ONE_SYMBOL: Final = re.compile(r"[+\-−]?\w+")
# In a list or a quotation a fence has a prefix; around code that holds fences it is longer.
_CODE_FENCE: Final = r"^(?:[ >]|[-*+] |\d+\. )*(?P<ticks>`{3,})[^`\n]*\n(?s:.*?)^[ >]*(?P=ticks)$"
_LINK_TARGET: Final = re.compile(r"\]\([^()\s]*\)")
# A rule directly below text would turn that text into a heading.
_TO_TIDY: Final = re.compile(
    rf"(?P<code>{_CODE_FENCE})|(?P<blank_lines>\n{{3,}})|(?P<glued_rule>(?<=\S)\n---$)",
    re.MULTILINE,
)


def to_markdown(post_html: str) -> str:
    """Markdown of an HTML fragment: code fences, lists, links and entities kept, images dropped.

    `10<sup>6</sup>` becomes `10^6` and `H<sub>2</sub>O` becomes `H_2O`: dropping the mark would
    change the number. Code blocks keep every character. Text that is no HTML comes back as it is,
    whitespace aside.
    """
    if not post_html.strip():
        return ""
    html = post_html
    lowered = html.lower()
    # Each expression is as slow as the conversion itself, and most posts hold nothing for it.
    if "<img" in lowered:
        html = _LINKED_IMAGE.sub("", html)
    if "<su" in lowered:
        html = _RAISED_OR_LOWERED.sub(_with_mark, html)
    markdown = compiled.convert(html=html, options=_OPTIONS, visitor=None).content or ""
    if "\n\n\n" in markdown or "\n---" in markdown:
        markdown = _TO_TIDY.sub(_tidied, markdown)
    return markdown.strip()


def without_link_targets(markdown: str) -> str:
    """Markdown without the addresses of its links, which say nothing about its subject."""
    return _LINK_TARGET.sub("]", markdown) if "](" in markdown else markdown


def _with_mark(match: re.Match[str]) -> str:
    mark = "^" if match[1].lower() == "sup" else "_"
    return f"{mark}{match[2]}" if _ONE_SYMBOL.fullmatch(match[2]) else f"{mark}({match[2]})"


def _tidied(match: re.Match[str]) -> str:
    if match["code"] is not None:
        return match["code"]
    return "\n\n" if match["blank_lines"] is not None else "\n\n---"
