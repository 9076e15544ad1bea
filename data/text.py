"""The one written form of English speech that models are trained on: words only, as they are said."""

import re
import unicodedata

from num2words import num2words

_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "´": "'", "`": "'"})
_SAID = {"&": " and ", "%": " percent ", "@": " at "}
_TAG = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|\{[^{}]*\}|\([^()]*\)")
"""What stands in brackets tells of noise, or is an aside that Whisper's normaliser does not count."""
_VULGAR = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅟↉])")
_FRACTION = re.compile(r"(?<![\d/⁄.])(?:(\d{1,3})\s+)?(\d{1,3})([/⁄])(\d{1,3})(?![\d/⁄]|\.\d)")
_DENOMINATORS = (*range(2, 11), 16)
"""With a plain slash other numbers are dates, scores, and the like: 9/11."""
_MONEY = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "¥": ("yen", "yen", "", ""),
    "¢": ("cent", "cents", "", ""),
}
_SYMBOL, _AMOUNT = f"([{''.join(_MONEY)}])", r"(\d+(?:\.\d+)?|\.\d+)"
_SCALES = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion", "tn": "trillion"}
_SYMBOL_FIRST = re.compile(
    rf"{_SYMBOL}\s?{_AMOUNT}(?:(\s?(?:hundred|thousand|million|billion|trillion)|{'|'.join(_SCALES)})\b)?"
)
_SYMBOL_LAST = re.compile(rf"{_AMOUNT}\s?{_SYMBOL}(?!\s?\d)")
_ORDINAL = re.compile(r"(\d{1,15})(?:st|nd|rd|th)\b")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# Longer digit strings, and those with leading zeros, are said one digit after the other.
_LONGEST_NUMBER = 15


def _number(written: str) -> str:
    whole, _, fraction = written.partition(".")
    if len(whole) > _LONGEST_NUMBER or (len(whole) > 1 and whole.startswith("0")):
        said = " ".join(num2words(int(digit)) for digit in whole)
    else:
        said = num2words(int(whole))
    if fraction:
        said += " point " + " ".join(num2words(int(digit)) for digit in fraction)
    return f" {said} "


def _money(symbol: str, amount: str, scale: str = "") -> str:
    scale = _SCALES.get(scale, scale.strip())
    one, many, part, parts = _MONEY[symbol]
    amount = amount if amount[0] != "." else f"0{amount}"
    whole, _, fraction = amount.partition(".")
    if scale or not parts or len(fraction) != 2:
        return f"{_number(amount)}{scale} {one if amount == '1' and not scale else many} "
    said = [f"{_number(whole)}{one if whole == '1' else many}"] if whole.strip("0") or fraction == "00" else []
    if fraction != "00":
        said.append(f"{_number(str(int(fraction)))}{part if fraction == '01' else parts}")
    return f" {' and '.join(said)} "


def _fraction(match: re.Match[str]) -> str:
    whole, upper, slash, lower = match.groups()
    if int(lower) < 2 or (slash == "/" and not (0 < int(upper) < int(lower) and int(lower) in _DENOMINATORS)):
        return match.group().replace(slash, " ")
    name = {2: "half", 4: "quarter"}.get(int(lower)) or num2words(int(lower), to="ordinal")
    if int(upper) != 1:
        name = "halves" if name == "half" else f"{name}s"
    return f" {f'{_number(whole)} and ' if whole else ''}{_number(upper)} {name} "


def normalise(text: str) -> str:
    """Lower case, no punctuation but apostrophes inside words, numbers and money spelt out, accents dropped.

    What stands in brackets of any kind is left out. Idempotent. Empty when the text has nothing that is said.

    >>> normalise("Press 1, or don't: it's the 2nd of 1,000! [noise]")
    "press one or don't it's the second of one thousand"
    >>> normalise("$5.20 for 3/4 of it")
    'five dollars and twenty cents for three quarters of it'
    """
    text = _VULGAR.sub(" ", text.translate(_APOSTROPHES))
    text = unicodedata.normalize("NFKD", text.casefold()).casefold()
    text = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text if not unicodedata.combining(c))
    # Digits of any script become 0 to 9, so that one rule spells all of them.
    text = "".join(str(unicodedata.digit(c)) if c.isdecimal() else c for c in text).translate(_APOSTROPHES)
    text = _THOUSANDS.sub("", _TAG.sub(" ", text))
    text = _SYMBOL_FIRST.sub(lambda match: _money(match[1], match[2], match[3] or ""), text)
    text = _SYMBOL_LAST.sub(lambda match: _money(match[2], match[1]), text)
    for symbol, said in _SAID.items():
        text = text.replace(symbol, said)
    text = _FRACTION.sub(_fraction, text)
    text = _ORDINAL.sub(lambda match: f" {num2words(int(match.group(1)), to='ordinal')} ", text)
    text = _NUMBER.sub(lambda match: _number(match.group()), text)
    text = "".join(c if c.isalpha() or c == "'" else " " for c in text)
    words = (word.strip("'") for word in text.split())
    return " ".join(word for word in words if word)
