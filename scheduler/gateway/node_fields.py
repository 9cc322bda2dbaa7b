"""Node fields: what an operator may say about a node, checked alike in the file, the API, the panel and the CLI."""

import ipaddress
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

NODE_FIELDS = ("id", "address", "models", "max_concurrent", "weight", "api_key", "labels", "remark", "state")
NODE_STATES = ("active", "draining", "disabled")
DEFAULT_WEIGHT = 100
MAX_CONCURRENT = 100_000
MAX_WEIGHT = 10_000

_REQUIRED = ("id", "address", "models", "max_concurrent")
_MAX_ADDRESS, _MAX_MODELS, _MAX_MODEL, _MAX_REMARK, _MAX_KEY = 512, 1000, 256, 1000, 4096
_MAX_LABELS, _MAX_LABEL_NAME, _MAX_LABEL_TEXT = 64, 64, 256

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HOST_NAME = re.compile(
    r"(?=.{1,253}\.?\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?"
)
_NUMBER_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")  # what some resolver reads as a part of an IPv4 address
_PREFIX = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*")
_ENDPOINT = re.compile(r"/v1/(chat/completions|completions|embeddings|models|responses|messages|rerank|score)\Z")
_KEY = re.compile(r"[\x21-\x7e]+")
_EXAMPLE = "write it like http://10.0.0.5:8000"

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


# -- address ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ParsedAddress:
    """Where a node is: `http(s)://host[:port][/prefix]`, no trailing slash, no default port; `note`: what was cut."""

    address: str
    note: str | None = None


def parse_address(text: str) -> ParsedAddress:
    """The address in its one spelling. Raises ValueError with what is wrong and what to write instead.

    Only spelling and literal IP addresses are checked here; what a name resolves to is the transport's affair.
    """
    if not isinstance(text, str) or not text:
        raise ValueError(f"is empty; {_EXAMPLE}")
    if len(text) > _MAX_ADDRESS:
        raise ValueError(f"is longer than {_MAX_ADDRESS} characters")
    if not text.isascii():
        raise ValueError("has characters beyond ASCII; write the host name in its xn-- form")
    if any(char <= " " or char in "\x7f\\" for char in text):
        raise ValueError("has spaces, control characters or backslashes; remove them")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in ("http", "https"):
        raise ValueError(f"must begin with http:// or https://; {_EXAMPLE}")
    if "?" in rest or "#" in rest:
        raise ValueError("has a query or fragment; remove everything from ? or # on")
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        raise ValueError("has a user or password; remove it and give the node's key as api_key")
    host, port = _split_port(authority)
    prefix, note = _parse_prefix(slash + path)
    default_port = {"http": 80, "https": 443}[scheme]
    suffix = "" if port in (None, default_port) else f":{port}"
    return ParsedAddress(f"{scheme}://{_parse_host(host)}{suffix}{prefix}", note)


def _split_port(authority: str) -> tuple[str, int | None]:
    bracket = authority.rfind("]")
    host, colon, port = authority.rpartition(":") if authority.rfind(":") > bracket else (authority, "", "")
    if bracket < 0 and ":" in host:
        raise ValueError("has an IPv6 address without brackets; write it like http://[fd00::5]:8000")
    if not colon:
        return authority, None
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError("has a port that is no number from 1 to 65535")
    return host, int(port)


def _parse_host(host: str) -> str:
    host = host.lower()
    if not host:
        raise ValueError(f"has no host; {_EXAMPLE}")
    if host.startswith("["):
        try:
            ip6 = ipaddress.IPv6Address(host[1:-1] if host.endswith("]") and "%" not in host else "")
        except ValueError:
            raise ValueError(
                "has something in brackets that is no IPv6 address (zones such as %eth0 are not allowed)"
            ) from None
        _refuse_special(ip6)
        return f"[{ip6.compressed}]"
    if not _HOST_NAME.fullmatch(host):
        raise ValueError(f"has a host that is neither a name nor an IP address; {_EXAMPLE}")
    # `0`, `127.1`, `0x7f.1`, `2130706433`: resolvers read them as addresses, string checks do not see it.
    if _NUMBER_LABEL.fullmatch(host.rstrip(".").rpartition(".")[2]):
        try:
            ip4 = ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(
                "has a numeric host that is no plain IPv4 address; write four numbers like 10.0.0.5"
            ) from None
        _refuse_special(ip4)
    return host


def _refuse_special(ip: IPAddress) -> None:
    for address in (ip, *_embedded(ip)):
        kind = _special_kind(address)
        if kind:
            raise ValueError(f"is a {kind} address, where no node can be; give the address of the GPU server itself")


def _special_kind(ip: IPAddress) -> str | None:
    if ip.is_unspecified or (ip.version == 4 and int(ip) >> 24 == 0):
        return "unspecified"
    if ip.is_link_local:
        return "link-local"
    if ip.is_multicast or str(ip) == "255.255.255.255":
        return "multicast"
    return None


def _embedded(ip: IPAddress) -> Iterable[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address stands for: mapped, 6to4, compatible, NAT64."""
    if not isinstance(ip, ipaddress.IPv6Address):
        return
    if ip.ipv4_mapped:
        yield ip.ipv4_mapped
    if ip.sixtofour:
        yield ip.sixtofour
    low = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if (int(ip) >> 32 == 0 and int(ip) > 0xFFFF) or ip in ipaddress.IPv6Network("64:ff9b::/96"):
        yield low


def _parse_prefix(path: str) -> tuple[str, str | None]:
    prefix = path.rstrip("/")
    if _ENDPOINT.search(prefix):
        raise ValueError("is the address of one call; give the part before /v1")
    segments = prefix.lower().replace("%2e", ".").split("/")
    if not _PREFIX.fullmatch(prefix) or "." in segments or ".." in segments:
        raise ValueError("has an unusable path; write a plain prefix like /engine-1, or none")
    if prefix.endswith("/v1"):
        return prefix.removesuffix("/v1").rstrip("/"), "the trailing /v1 was removed: calls bring their own /v1"
    return prefix, None


# -- the other fields: each takes a value and gives the kept one, or raises ValueError ----------


def _check_id(value: Any) -> str:
    text = _text(value)
    if not _ID.fullmatch(text) or text in (".", ".."):
        raise ValueError(f"{_shown(text)} is no usable id; use 1 to 64 letters, digits, dots, underscores or hyphens")
    return text


def _check_address(value: Any) -> str:
    return parse_address(_text(value)).address


def _check_models(value: Any) -> list[str]:
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list of model names")
    if not 1 <= len(value) <= _MAX_MODELS:
        raise ValueError(f"must name at least 1 and at most {_MAX_MODELS} models; it names {len(value)}")
    faults = [f"entry {number}: {fault}" for number, fault in enumerate(map(_model_fault, value), 1) if fault]
    counts = Counter(name for name in value if isinstance(name, str))
    faults += [f"{_shown(name)} is named {count} times" for name, count in counts.items() if count > 1]
    if faults:
        raise ValueError("; ".join(faults[:10]))
    return list(value)


def _model_fault(name: Any) -> str | None:
    if not isinstance(name, str):
        return f"{_shown(name)} is no text; put it in quotes"
    if not name or name != name.strip():
        return "is empty or has spaces around it"
    if len(name) > _MAX_MODEL:
        return f"is longer than {_MAX_MODEL} characters"
    return "has control characters" if _has_controls(name) else None


def _check_whole(upper: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= upper:
            raise ValueError(f"{_shown(value)} is no whole number from 1 to {upper}")
        return value

    return check


def _check_api_key(value: Any) -> str:
    # The value itself must never stand in a message.
    if not isinstance(value, str):
        raise ValueError("must be text; put it in quotes")
    if value and (len(value) > _MAX_KEY or not _KEY.fullmatch(value)):
        raise ValueError(f"must be at most {_MAX_KEY} printable ASCII characters without spaces")
    return value


def _check_labels(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError("must map names to texts, such as {zone: a}")
    if len(value) > _MAX_LABELS:
        raise ValueError(f"has {len(value)} labels; at most {_MAX_LABELS} are kept")
    faults = []
    for name, text in value.items():
        if not isinstance(name, str) or not 1 <= len(name) <= _MAX_LABEL_NAME or _has_controls(name):
            faults.append(f"the name {_shown(name)} must be a text of 1 to {_MAX_LABEL_NAME} characters")
        elif not isinstance(text, str):
            faults.append(f"the value of {_shown(name)} must be text, not {_shown(text)}; put it in quotes")
        elif len(text) > _MAX_LABEL_TEXT or _has_controls(text):
            faults.append(f"the value of {_shown(name)} must be at most {_MAX_LABEL_TEXT} characters of one line")
    if faults:
        raise ValueError("; ".join(faults))
    return dict(value)


def _check_remark(value: Any) -> str:
    text = _text(value)
    if len(text) > _MAX_REMARK:
        raise ValueError(f"is {len(text)} characters long; at most {_MAX_REMARK} are kept")
    if _has_controls(text, allowed="\n\r\t"):
        raise ValueError("has control characters")
    return text


def _check_state(value: Any) -> str:
    if value not in NODE_STATES:
        raise ValueError(f"{_shown(value)} is no state; use active, draining or disabled")
    return str(value)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "id": _check_id,
    "address": _check_address,
    "models": _check_models,
    "max_concurrent": _check_whole(MAX_CONCURRENT),
    "weight": _check_whole(MAX_WEIGHT),
    "api_key": _check_api_key,
    "labels": _check_labels,
    "remark": _check_remark,
    "state": _check_state,
}


# -- all fields at once -----------------------------------------------------------------------


def check_node_fields(fields: Mapping[str, Any], *, partial: bool) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The usable fields, and every bad one as (param, message), in the order of NODE_FIELDS, unknown ones last.

    Whole (`partial=False`): id, address, models and max_concurrent are required; null counts as not given; what is
    not given gets its default (weight 100, api_key None, labels {}, remark ""), except `state`, which stays absent.
    Partial: only the fields given, without `id`; null passes as None (it lifts an override), an api_key of "" as ""
    (no key). The note of a changed address is had from `parse_address`.
    """
    values: dict[str, Any] = {} if partial else {"weight": DEFAULT_WEIGHT, "api_key": None, "labels": {}, "remark": ""}
    faults: list[tuple[str, str]] = []
    for name in NODE_FIELDS:
        if partial and name == "id":
            if name in fields:
                faults.append((name, "cannot be changed; register the node under its new id and delete this one"))
        elif fields.get(name) is None:
            if partial and name in fields:
                values[name] = None
            elif not partial and name in _REQUIRED:
                faults.append((name, "is required"))
        else:
            try:
                values[name] = _CHECKS[name](fields[name])
            except ValueError as error:
                faults.append((name, str(error)))
    if not partial:
        values["api_key"] = values["api_key"] or None
    for name in fields:
        if name not in NODE_FIELDS:
            near = nearest_name(str(name), NODE_FIELDS)
            hint = f"did you mean {near}?" if near else f"the fields are {', '.join(NODE_FIELDS)}"
            faults.append((str(name), f"unknown field; {hint}"))
    return values, faults


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be, or None."""
    near = get_close_matches(name[:64].lower().replace("-", "_"), list(known), n=1, cutoff=0.6)
    return near[0] if near else None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is no text; put it in quotes")
    return value


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple | Mapping):
        return "a mapping" if isinstance(value, Mapping) else "a list"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _has_controls(text: str, allowed: str = "") -> bool:
    # Lone surrogates count: JSON can carry them, UTF-8 and the tables cannot.
    return any(unicodedata.category(char) in ("Cc", "Cs") and char not in allowed for char in text)
