"""Chats: lists of messages, each of a role and a text, as sets for fine-tuning have them."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

FORMS = (("role", "content"), ("from", "value"))  # the second: ShareGPT's


def is_chat(value: Any) -> bool:
    """Whether a value is a list of objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def chat_text(messages: list[Mapping[str, Any]]) -> str:
    """The text of a chat: a line "role: content" for each message, which may have further lines.

    Args:
        messages: objects with "role" and "content", or with "from" and "value" (ShareGPT's). A content may be a list of
            parts of the type "text".

    Raises:
        ValueError: a message without a role or without a text (of a tool, an image).

    Example:
        >>> from fastssl.data.chats import chat_text
        >>> chat_text([{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "It is."}])
        'user: Is it?\\nassistant: It is.'
    """
    lines = []
    for number, message in enumerate(messages, 1):
        form = next((form for form in FORMS if all(key in message for key in form)), None)
        if form is None:
            wanted = " or ".join(" and ".join(keys) for keys in FORMS)
            raise ValueError(f"message {number}: expected {wanted}, got the keys {', '.join(map(str, message))}")
        role, content = (message[key] for key in form)
        text = "\n".join(map(_part, content)) if is_chat(content) and all(map(_part, content)) else content
        for key, value in zip(form, (role, text)):
            if not isinstance(value, str):
                raise ValueError(f"message {number}: expected a string under {key!r}, got {reprlib.repr(value)}")
        lines.append(f"{role}: {text}")
    return "\n".join(lines)


def _part(part: Mapping[str, Any]) -> str:
    text = part.get("text") if part.get("type", "text") == "text" else None
    return text if isinstance(text, str) else ""
