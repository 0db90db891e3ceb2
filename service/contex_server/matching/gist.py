"""What a need asks for, without the words that only ask.

"As the safety officer I want to hear whenever somebody got hurt, not about broken machines" asks
for "somebody got hurt". Asking words make all long needs alike, and what is asked to be left out
is nearer to an embedding than what is not mentioned at all. Only words that can't mean anything
else go: "which" and "I want to know" do; "who", "no" and "need for speed" stay, and so does ", not
signed yet". It is worth 0.01 of F1 (ADR 21). What is left out here is not excluded: embeddings
can't tell; `exclude` can.
"""

from __future__ import annotations

import re

_ROLE = re.compile(
    r"""^(?:(?:please|hello|hi)[,!]?\s+)*(?:
        as\s+(?:the|an?)\s[^,]{3,40}?(?:,|\s+(?=i\s))\s*
      | i\s+(?:am|'m)\s+(?:the|an?)\s[^,.]{3,60}?(?:[,.]\s+|\s+and\s+(?=(?:i\s+)?(?:want|need)\b))
      | i\s+[a-z]+\s+(?:the\s|our\s)?[a-z\ ]{2,25}?\s+and\s+(?=(?:i\s+)?(?:want|need|have\s+to)\b)
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_ASKING = re.compile(
    r"""^(?:(?:and|so|please)\s+)*(?:
        (?:(?:(?:i|we)\s+(?:also\s+)?)?(?:want|need|wish|have)|(?:i|we)(?:'d|\s+would)\s+like)\s+
        to\s+(?:hear|know|see|learn|find(?:\s+out)?|be\s+(?:told|informed|notified))\b
        (?:\s+(?:about|of|whenever|when|that|everything|what|which|if)\b)?(?:\s+every\b)?
      | (?:i|we)\s+(?:also\s+)?(?:want|need|look\s+for)\b
      | (?:tell|show|give|send|notify|inform|alert)\s+(?:me|us)\b
        (?:\s+(?:about|of|when|whenever|every|if|everything)\b)?
      | let\s+(?:me|us)\s+know\b(?:\s+(?:about|of|when|whenever|if)\b)?
      | (?:which|what)\b(?:\s+(?:is|are|was|were)\b)?+(?:\s+(?:our|the)\b)*+(?=\s+\S+\s+\S)
      | (?:anything|everything|all)\s+(?:about|on|concerning|regarding|that\s+concerns)\b
        (?:\s+the\b)?
    )\s*""",
    re.VERBOSE | re.IGNORECASE,
)
_LEFT_OUT = re.compile(
    r"""\s*(?:[,;(]|\s[-\u2013]|(?=\s(?:but|except|excluding)\s))\s*
        (?:(?:but|and)\s+not|not\s+(?:about|the|interested\s+in|those|what)|except(?:\s+for)?
          |excluding|other\s+than|rather\s+than|instead\s+of)
        \s[^,;.)]{2,}\)?""",
    re.VERBOSE | re.IGNORECASE,
)
_LETTER = re.compile(r"[^\W\d_]")
_ALL = frozenset({"", "all", "any", "anything", "everything"})
_DIGIT = re.compile(r"\d")
_LATIN_END = "\u0250"
_LONGEST_WORD = 100
"""A longer one is unknown to the models' tokenizers."""


def gist(need: str) -> str:
    """The need without what only asks and what it wants left out; all of it if that is all."""
    text = " ".join(need.split()).rstrip("?.!")
    core = _LEFT_OUT.sub(" ", text).strip()
    if core.lower() in _ALL:
        core = text
    for _ in range(2):  # "I plan the rota and | need to know about | …"
        shorter = _ASKING.sub("", _ROLE.sub("", core))
        if _LETTER.search(shorter):
            core = shorter
    core = core.strip(" ,;:-\u2013")
    return core if _LETTER.search(core) else text or need


def is_foreign(need: str) -> bool:
    """Whether a model of English can read less than half of a need.

    That are letters of another script than Latin, or what is no word at all: emoji, a thousand "x".
    """
    words = [word for word in need.split() if len(word) <= _LONGEST_WORD]
    letters: list[str] = _LETTER.findall(" ".join(words))
    latin = sum(letter < _LATIN_END for letter in letters)
    return 2 * latin < len(letters) or not (letters or _DIGIT.search(need))
