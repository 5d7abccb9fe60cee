"""Planted secrets, rows, paths and addresses, each found with its file and line."""

import json

import pytest

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets.errors import PublishingError
from qwenft_assets.publishing.private_text import PrivateText
from qwenft_assets.publishing.scan import Scanner, scan
from qwenft_assets_tests.publishing.conftest import PRIVATE_REPORT

TOKEN = "hf_" + "aB3dE5gH7jK9mN1pQ3sT5vW7xY9zA1cE3"
CHINESE = "夜间值班时三号泵突然停转，后来发现是接线端子松动。"


@pytest.fixture
def scanner(tmp_path):
    return Scanner(PrivateText([PRIVATE_REPORT, CHINESE, "Why exactly this?"]), (tmp_path / "own",))


def found(scanner, folder, name, content):
    (folder / name).write_text(content, encoding="utf-8")
    return [str(finding) for finding in scanner.scan_file(folder, name)]


@pytest.mark.parametrize(
    ("planted", "kind"),
    [
        pytest.param(f"token {TOKEN}", "a secret (api_key)", id="hf-token"),
        pytest.param(
            "ghp_" + "aB3dE5gH7jK9mN1pQ3sT5vW7xY9zA1cE3fGh", "a secret", id="github-token"
        ),
        pytest.param("https://user:hunter2@host.org/x", "a secret (Basic", id="password-in-url"),
        pytest.param("-----BEGIN RSA PRIVATE KEY-----", "a secret", id="private-key"),
        pytest.param("ask anna.meier@company.de", "an e-mail address", id="e-mail"),
        pytest.param("loaded /home/anna/models/base", "a path of a local", id="home"),
        pytest.param(r"C:\Users\anna\x", "a path of a local", id="windows"),
        pytest.param(f"{PROJECT_ROOT}/data/out", "a path of a local", id="the-project-itself"),
        pytest.param(PRIVATE_REPORT[:80].upper(), "text of a private row", id="row"),
        pytest.param(f"前言。{CHINESE[:14]}", "text of a private row", id="chinese-row"),
    ],
)
def test_each_is_found_with_its_line(scanner, tmp_path, planted, kind):
    findings = found(scanner, tmp_path, "README.md", f"# Card\n\nSome text.\n{planted}\n")
    assert all(finding.startswith("README.md:4: ") for finding in findings)
    assert any(finding.startswith(f"README.md:4: {kind}") for finding in findings)
    assert TOKEN not in str(findings)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("The crystal load capacitors were chosen well.", id="few-words-in-common"),
        pytest.param("https://huggingface.co/datasets/home/anna/x", id="url"),
        pytest.param("sha256 " + "0123456789abcdef" * 4, id="hash"),
        pytest.param("see name@example.org and git@github.com:me/x", id="nobodys-address"),
        pytest.param("alpha /= 2; and/or a/tmp/b", id="slashes"),
    ],
)
def test_what_may_leave_is_left_alone(scanner, tmp_path, text):
    assert found(scanner, tmp_path, "README.md", text) == []


def test_a_quotation_over_several_lines_is_found_where_it_begins(scanner, tmp_path):
    words = PRIVATE_REPORT.split()
    text = "Intro.\n" + " ".join(words[:4]) + "\n" + " ".join(words[4:14]) + "\n"
    assert found(scanner, tmp_path, "a.md", text)[0] == "a.md:2: text of a private row"


def test_escaped_json_hides_nothing(scanner, tmp_path):
    text = json.dumps({"a": [CHINESE], "b": "Why exactly this?"}, indent=0)
    assert "\\u" in text
    findings = found(scanner, tmp_path, "training.json", text)
    assert [finding.split(":")[1] for finding in findings] == ["3", "5"]
    short = "Somebody asked: why exactly this? Nobody knows."
    assert found(scanner, tmp_path, "a.json", json.dumps({"a": short})) == []


def test_headers_of_weights_and_pictures_are_read(scanner, tmp_path):
    import numpy as np
    from PIL import Image, PngImagePlugin
    from safetensors.numpy import save_file

    metadata = {"path": "/home/anna/run"}
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "w.safetensors", metadata)
    assert str(scanner.scan_file(tmp_path, "w.safetensors")[0]).startswith(
        "w.safetensors:1: a path"
    )
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "anna.meier@company.de")
    Image.new("RGB", (2, 2)).save(tmp_path / "p.png", pnginfo=info)
    assert str(scanner.scan_file(tmp_path, "p.png")[0]) == "p.png:1: an e-mail address"


def test_a_file_that_cannot_be_read_stops_too(scanner, tmp_path):
    (tmp_path / "blob.bin").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(PublishingError, match=r"blob\.bin:1: neither text nor"):
        scan(tmp_path, ["blob.bin"], scanner)


def test_exempt_paths_may_hold_made_up_secrets_but_no_private_row(tmp_path):
    (tmp_path / "tests").mkdir()
    scanner = Scanner(PrivateText([PRIVATE_REPORT]), exempt=("tests/*",))
    assert found(scanner, tmp_path, "tests/a.py", f"{TOKEN}\n/home/anna/x") == []
    assert len(found(scanner, tmp_path, "tests/a.py", PRIVATE_REPORT)) == 1


@pytest.mark.parametrize(
    ("planted", "kind"),
    [
        pytest.param({"note": TOKEN}, "a secret", id="token"),
        pytest.param({"note": PRIVATE_REPORT}, "text of a private row", id="private-row"),
        pytest.param({"note": "/home/anna/base"}, "a path of a local machine", id="path"),
    ],
)
def test_what_is_planted_in_an_adapter_stops_the_command(released, tmp_path, planted, kind):
    file = released.adapter / "training.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**planted, **record}), encoding="utf-8")
    copies = tmp_path / "copies"
    answer = released.run("publish", "--target", "folder", "--to", str(copies), "--no-dry-run")
    assert answer.returncode == 2, answer.stdout
    assert "/training.json:2: " + kind in answer.stderr
    assert "Nothing was sent" in answer.stderr
    assert TOKEN not in answer.stderr
    assert not copies.exists()
