"""Ways to damage a JSON or text file: swapped values, extremes, double keys, nesting, bytes that are no text."""

from __future__ import annotations

import copy
import json
import math
import random
import re
from typing import Any

from tests.data.test_fuzz import bytes_changed, cut_off

EXTREMES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, -(10**30), 0.5, 1e308, -1e308, math.nan, math.inf, -math.inf,
    "", "x", "x" * 20_000, "a\0b", "\ud800", "../../x", "/etc/x", "C:\\x", "..", "<script>", "1e999", "\x1b[31m\n",
    [], {}, [[]], [None], [0, 0], ["a", "a"], {"a": 1}, {"": {}}, [[[[[1]]]]], [1.5, "x"], list(range(300)),
)  # fmt: skip

SIGNS = ('"', "{", "}", "[", "]", ",", ":", "\\", "\\ud800", "\n", "\t", "\0", "\ufffd", "\ufeff")
WORDS = ("NaN", "-Infinity", "1e999", "9" * 5000, "0x" + "f" * 4000, "'", "\\x", "1_000", "\u00e9" * 300, "[]" * 50)


def value_changed(value: Any, rng: random.Random) -> Any:
    """Return JSON values in which one to three are replaced, gone, doubled or called otherwise."""
    changed = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = list(_places(changed))
        if not places:
            return copy.deepcopy(rng.choice(EXTREMES))
        holder, key = rng.choice(places)
        match rng.randrange(8):
            case 0:
                del holder[key]
            case 1:
                holder[key] = rng.choice([[holder[key]], {"x": holder[key]}, str(holder[key])])
            case 2 if isinstance(holder, dict):
                holder[rng.choice([f"{key}s", "sneaky", "", "a\0", "\ud800"])] = holder.pop(key)
            case 3 if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case _:
                holder[key] = copy.deepcopy(rng.choice(EXTREMES))
    return changed


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    found = [(value, key) for key in keys]
    return found + [place for key in keys for place in _places(value[key])]


def text_changed(text: str, rng: random.Random) -> str:
    """Return a JSON or YAML text with something in it that no program would write."""
    values = list(re.finditer(r'-?\d+(\.\d+)?|"[^"]*"|true|false|null', text))
    keys = list(re.finditer(r'"[^"]*": ', text))
    kind = rng.randrange(5)
    if kind == 0 and keys:
        key = rng.choice(keys)
        return f"{text[: key.start()]}{key[0]}{json.dumps(rng.choice(EXTREMES))}, {text[key.start() :]}"
    if not values or kind == 1:
        at = rng.randrange(len(text) + 1)
        return text[:at] + rng.choice(SIGNS) + text[at:]
    value = rng.choice(values)
    return text[: value.start()] + rng.choice(WORDS) + text[value.end() :]


def nested(text: str, rng: random.Random) -> str:
    """Return the text with a value that is nested so deeply that a recursive reader gives up."""
    values = list(re.finditer(r'-?\d+|"[^"]*"|null', text))
    value = rng.choice(values)
    depth = rng.choice([900, 5000, 100_000])
    left, right = rng.choice([("[", "]"), ('{"a":', "}")])
    return text[: value.start()] + left * depth + "1" + right * depth + text[value.end() :]


def json_changed(value: Any, rng: random.Random, *, deep: bool = True) -> bytes:
    """Return a damaged JSON file of what was `value`."""
    kind = rng.random()
    text = json.dumps(value)
    if kind < 0.6:
        return json.dumps(value_changed(value, rng)).encode()
    if kind < 0.8:
        return text_changed(text, rng).encode("utf-8", "surrogatepass")
    if kind < 0.85 and deep:
        return nested(text, rng).encode()
    return rng.choice([bytes_changed, cut_off])(text.encode(), rng)
