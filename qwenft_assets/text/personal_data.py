"""Traces of personal data and secrets in a text, by their shape.

Made for technical reports: a finding needs a checksum, or a shape that versions, part numbers, sizes
and measurements do not have. It says "look here"; no finding does not say "nothing there".
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from datetime import date

_EMAIL = re.compile(
    r"(?<![\w.%+/-])(?!git@)[\w.%+-]{1,64}@(?P<domain>(?:[a-z0-9][a-z0-9-]{0,62}\.){1,8}[a-z]{2,24})"
    r"(?![\w(-])",
    re.IGNORECASE | re.ASCII,
)
_NOBODYS_DOMAIN = re.compile(
    r"(?:^|\.)(?:example(?:\.(?:com|org|net))?|invalid|test|localhost)$|\.(?:png|jpe?g|gif|svg|webp)$",
    re.IGNORECASE,
)

_API_KEY = re.compile(
    r"""(?<![\w/+-])(?:
        (?:AKIA|ASIA)[0-9A-Z]{16}
      | gh[pousr]_[A-Za-z0-9]{36,}
      | github_pat_\w{50,}
      | hf_[A-Za-z0-9]{30,}
      | sk-(?=[\w-]*[0-9])(?=[\w-]*[A-Z])[\w-]{20,}
      | [rs]k_live_[A-Za-z0-9]{20,}
      | xox[abeoprs]-[A-Za-z0-9-]{10,}
      | AIza[\w-]{35}
      | eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}
    )(?!\w)
    | -----BEGIN[ ](?:[A-Z0-9]+[ ]){0,3}PRIVATE[ ]KEY(?:[ ]BLOCK)?-----""",
    re.VERBOSE | re.ASCII,
)
_KEY_CHARACTERS = 10
"""Different ones; fewer is a placeholder such as hf_xxxx."""

_PHONE = re.compile(
    r"""(?<![\w.+-])(?:
        \+[1-9]\d{0,2}[ .-]?(?:\(0?\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,5}){1,4}
      | (?:\([2-9]\d\d\)[ ]?|[2-9]\d\d-)[2-9]\d\d-\d{4}
      | 1[3-9]\d(?:[ ]\d{4}[ ]\d{4}|-\d{4}-\d{4}|\d{8})
    )(?![\w-]|[.,]\d)""",
    re.VERBOSE | re.ASCII,
)
_PHONE_DIGITS = range(10, 16)

_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\w)", re.ASCII)
_IPV4_DIGITS = 8
"""Four numbers with fewer digits are rather a version or a section."""
_VERSION_BEFORE = re.compile(
    r"\b(?:v|version|release|firmware|driver|build|rev|revision|section|table|figure|sdk|bios|cuda)"
    r"\b[^\n\d]{0,12}$",
    re.IGNORECASE | re.ASCII,
)

_CREDIT_CARD = re.compile(
    r"""(?<![\w.+-])(?:
        (?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6(?:011|4[4-9]\d|5\d\d))(?:(?:[ ]\d{4}){3}|(?:-\d{4}){3}|\d{12})
      | 3[47]\d\d(?:[ ]\d{6}[ ]\d{5}|-\d{6}-\d{5}|\d{11})
    )(?![\w-]|[ ]?\.\d|[ ]\d)""",
    re.VERBOSE | re.ASCII,
)

_CN_ID_CARD = re.compile(
    r"(?<![\w.-])[1-9]\d{5}(?P<year>(?:19|20)\d\d)(?P<month>\d\d)(?P<day>\d\d)\d{3}[\dXx](?![\w-]|\.\d)",
    re.ASCII,
)
_CN_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def find_personal_data(text: str) -> Counter[str]:
    """How often each kind of personal data or secret stands in a text; kinds without any are absent.

    - email: with a dotted domain. Not: `name at domain`, example and test domains, `git@`.
    - phone: `+` and country code with 10 to 15 digits, North American 3-3-4 with hyphens, Chinese
      mobile numbers. Not: other national or internal numbers, `00` instead of `+`.
    - api_key: AWS, GitHub, Hugging Face, OpenAI and Anthropic, Stripe, Slack, Google, JWT, private
      keys in PEM. Not: passwords, keys without a known prefix.
    - ip_address: public IPv4 of at least 8 digits. Not: IPv6, short ones such as 8.8.8.8, which look
      like versions, one after the word version or the like.
    - credit_card: 15 or 16 digits of the large issuers with a valid check digit, bare or in groups.
    - cn_id_card: 18 digits with a birth date and a valid check digit. Not: the old 15 digits.

    Names, postal addresses, birth dates, plates, bank accounts and passports are not looked for.
    """
    counts = {
        kind: sum(is_one(match) for match in shape.finditer(text))
        for kind, (shape, is_one) in _KINDS.items()
    }
    return Counter({kind: count for kind, count in counts.items() if count})


def _is_email(match: re.Match[str]) -> bool:
    return not _NOBODYS_DOMAIN.search(match["domain"])


def _is_phone(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match[0])
    # 15000000000 is a frequency.
    return len(digits) in _PHONE_DIGITS and not digits.endswith("0000")


def _is_api_key(match: re.Match[str]) -> bool:
    return len(set(match[0])) >= _KEY_CHARACTERS and "EXAMPLE" not in match[0]


def _is_public_address(match: re.Match[str]) -> bool:
    if len(match[0]) < _IPV4_DIGITS + 3 or _VERSION_BEFORE.search(
        match.string[max(0, match.start() - 30) : match.start()]
    ):
        return False
    try:
        address = ipaddress.IPv4Address(match[0])
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


def _passes_luhn(match: re.Match[str]) -> bool:
    digits = [int(digit) for digit in match[0] if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(digits[-1::-2])) % 10 == 0


def _is_cn_id_card(match: re.Match[str]) -> bool:
    try:
        date(int(match["year"]), int(match["month"]), int(match["day"]))
    except ValueError:
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_CN_WEIGHTS, match[0], strict=False))
    return "10X98765432"[total % 11] == match[0][-1].upper()


_KINDS: dict[str, tuple[re.Pattern[str], Callable[[re.Match[str]], bool]]] = {
    "email": (_EMAIL, _is_email),
    "phone": (_PHONE, _is_phone),
    "api_key": (_API_KEY, _is_api_key),
    "ip_address": (_IPV4, _is_public_address),
    "credit_card": (_CREDIT_CARD, _passes_luhn),
    "cn_id_card": (_CN_ID_CARD, _is_cn_id_card),
}
