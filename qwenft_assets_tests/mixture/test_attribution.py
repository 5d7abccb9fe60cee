"""Who wrote what, under which licence, and what follows from it."""

from qwenft_assets.mixture.attribution import attribution, plain
from qwenft_assets_tests.mixture.sampled_rows import row, rows_of

SHARED = {"license": "CC BY-SA 4.0"}


def test_share_alike_rows_are_listed_with_page_and_authors_and_others_are_counted():
    shared = [
        row(
            "stackexchange_ai", n, url=f"https://ai.example/q/{n}_a", author=f"ask*er {n}", **SHARED
        )
        for n in range(3)
    ]
    text = "".join(
        attribution([*rows_of("slimorca", 1_200), *shared, *rows_of("local_reports", 2)])
    )
    assert "1,205 distinct rows" in text
    assert "| slimorca | MIT | 1,200 |" in text
    assert "| stackexchange_ai | CC BY-SA 4.0 | 3 |" in text
    assert "2 rows are marked `private`" in text
    assert "https://creativecommons.org/licenses/by-sa/4.0/" in text
    assert "share alike" in text
    listed = [line for line in text.splitlines() if line.startswith("- <")]
    assert listed == [f"- <https://ai.example/q/{n}_a> (ask\\*er {n})" for n in range(3)]


def test_nothing_is_said_of_licences_that_no_row_has():
    text = "".join(attribution(rows_of("slimorca", 5)))
    assert "share alike" not in text
    assert "private" not in text


def test_names_of_others_cannot_act_as_markdown_or_html():
    assert plain("[x](javascript:1)\n<b>|`*_") == r"\[x\](javascript:1) \<b\>\|\`\*\_"
    (line,) = [
        line
        for line in attribution([row("stackexchange_ai", 1, url="javascript:x <b>", **SHARED)])
        if line.startswith("- ")
    ]
    assert line == "- javascript:x \\<b\\> ()\n"
