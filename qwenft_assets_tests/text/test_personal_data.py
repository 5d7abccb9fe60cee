"""Each kind is found in its usual spellings; technical numbers are left alone."""

import json
import string
import time

import pytest

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets.text.personal_data import find_personal_data

# Joined here, so that no scanner of the repository takes them for leaked keys.
LETTERS = (string.ascii_letters + string.digits) * 2


def card(digits: str) -> str:
    """Sixteen digits, the last of which makes them valid."""
    for check in string.digits:
        number = [int(digit) for digit in digits + check]
        if sum(number[1::2]) % 10 == -sum(sum(divmod(2 * d, 10)) for d in number[::2]) % 10:
            return digits + check
    raise AssertionError(digits)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        pytest.param("email", "Ask li.wei@chip-lab.com.cn today.", id="email"),
        pytest.param("email", "联系li.wei+test@firma.de。", id="email-in-chinese-text"),
        pytest.param("email", "<mailto:a_b@uni-x.edu>", id="email-in-a-link"),
        pytest.param("phone", "Call +49 (0)89 1234 5678.", id="german-phone"),
        pytest.param("phone", "tel: +442079460958", id="phone-without-blanks"),
        pytest.param("phone", "(415) 555-2671", id="american-phone"),
        pytest.param("phone", "or 415-555-2671, please", id="american-phone-with-hyphens"),
        pytest.param("phone", "电话13812345678。", id="chinese-mobile"),
        pytest.param("phone", "+86 138 1234 5678", id="chinese-mobile-abroad"),
        pytest.param("api_key", "key = 'AKIA" + "Q3ZJ7Y2LMN4P5RST'", id="aws"),
        pytest.param("api_key", "ghp_" + LETTERS[:36], id="github"),
        pytest.param("api_key", "github_pat_" + LETTERS[:60], id="github-fine-grained"),
        pytest.param("api_key", "HF_TOKEN=hf_" + LETTERS[:34], id="hugging-face"),
        pytest.param("api_key", "sk-" + LETTERS[10:58], id="openai"),
        pytest.param("api_key", "sk-proj-" + LETTERS[10:70], id="openai-project"),
        pytest.param("api_key", "sk-ant-api03-" + LETTERS[20:80], id="anthropic"),
        pytest.param("api_key", "sk_live_" + LETTERS[:24], id="stripe"),
        pytest.param("api_key", "xoxb-" + "123456789012-" + LETTERS[:20], id="slack"),
        pytest.param("api_key", "AIza" + LETTERS[:35], id="google"),
        pytest.param("api_key", f"Bearer eyJ{LETTERS[:20]}.eyJ{LETTERS[:30]}.{LETTERS}", id="jwt"),
        pytest.param("api_key", "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE", id="pem"),
        pytest.param("api_key", "-----BEGIN " + "PRIVATE KEY-----", id="pem-pkcs8"),
        pytest.param("ip_address", "ssh to 93.184.216.34 first", id="public-address"),
        pytest.param("ip_address", "http://93.184.216.34:8080/x", id="address-in-a-link"),
        pytest.param("credit_card", card("411111111111111"), id="card"),
        pytest.param("credit_card", "5500 0000 0000 0004", id="card-in-groups"),
        pytest.param("credit_card", "3782-822463-10005", id="american-express"),
        pytest.param("cn_id_card", "身份证11010519491231002X。", id="id-card"),
        pytest.param("cn_id_card", "11010519491231002x", id="id-card-with-a-small-x"),
    ],
)
def test_each_kind_is_found(kind, text):
    assert find_personal_data(text) == {kind: 1}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("mail user@example.com or a@lab.test", id="nobodys-domain"),
        pytest.param("git clone git@github.com:org/repo.git", id="git-address"),
        pytest.param("icon@2x.png, p@k, @app.route, y = W@x.sum()", id="at-sign-in-code"),
        pytest.param("AKIA" + "IOSFODNN7EXAMPLE", id="documented-key"),
        pytest.param("hf_" + "x" * 34 + " ghp_" + "A" * 36, id="placeholder-key"),
        pytest.param("sk-folding-cube-loader-wrapper-1", id="css-class"),
        pytest.param("-----BEGIN CERTIFICATE-----", id="certificate"),
        pytest.param("10.0.0.1, 192.168.100.200, 127.0.0.1", id="private-addresses"),
        pytest.param("203.0.113.254 and 224.100.100.251", id="documentation-and-multicast"),
        pytest.param("version 131.10.6778.204, driver 128.10.115.46", id="versions"),
        pytest.param("tag v1.2.3.4, section 12.3.10.11, 300.400.500.600", id="short-or-too-large"),
        pytest.param("OID 1.3.6.1.4.1.311.21.20", id="object-identifier"),
        pytest.param("4111111111111112", id="card-with-a-wrong-check-digit"),
        pytest.param("9000000000000000 and 1700000000000", id="large-numbers"),
        pytest.param("110105194912310021", id="id-card-with-a-wrong-check-digit"),
        pytest.param("110105194913310024", id="id-card-without-a-date"),
        pytest.param("+3.3 V, -12 V, +5 V ±10 %, +1234", id="voltages"),
        pytest.param("15000000000 Hz, 1732422949 s, 1732422949123 ms", id="frequency-and-times"),
        pytest.param("2N3904, LM317T, 74HC595, STM32F103C8T6, 0402-10k-1%", id="part-numbers"),
        pytest.param("ISBN 978-3-16-148410-0, 2024-11-24, 12:30:59.123", id="book-and-dates"),
        pytest.param("0010110110110100 0x00FF 1011-0110-1100", id="binary"),
        pytest.param("3.14159265358979, 6.02214076e23, 1,380,649,000", id="long-decimals"),
        pytest.param("+4٩ ٨٩ ١٢٣٤ ٥٦٧٨", id="digits-of-other-scripts"),
        pytest.param("4" + "١" * 15 + ", 4٢٤٢ ٤٢٤٢ ٤٢٤٢ ٤٢٤٢", id="card-in-them"),
        pytest.param("commit 1383a0b4c2d9e8f71383123456785550000000000", id="hash"),
    ],
)
def test_technical_numbers_are_left_alone(text):
    assert not find_personal_data(text)


def test_kinds_and_places_are_counted():
    text = "a@firm.de, b@firm.de; 93.184.216.34"
    assert find_personal_data(text) == {"email": 2, "ip_address": 1}


def test_bundled_reports_have_none():
    rows = json.loads((PROJECT_ROOT / "data" / "my_dataset.json").read_text(encoding="utf-8"))
    assert [row for row in rows if find_personal_data("\n".join(row.values()))] == []


@pytest.mark.parametrize("unit", ["1", "a.", "+1 ", "a@", "12 ", "sk-", "eyJaaaaaaaa.", "1.", "-"])
def test_time_grows_with_the_length_only(unit):
    begin = time.perf_counter()
    find_personal_data(unit * (200_000 // len(unit)))
    assert time.perf_counter() - begin < 5
