import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.text import normalise


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Press 1, or don't.", "press one or don't"),
        ("It’s the 2nd of 1,000!", "it's the second of one thousand"),
        ("3D audio", "three d audio"),
        ("007 at 28.8 kilobit", "zero zero seven at twenty eight point eight kilobit"),
        ("'tis five o'clock", "tis five o'clock"),
        ("Tom & Jerry: 50%", "tom and jerry fifty percent"),
        ("Café  naïve\n", "cafe naive"),
        ("-- ... !", ""),
        ("$5.20, £1 and 5€", "five dollars and twenty cents one pound and five euros"),
        ("$1.01 or $.50 or 3¢", "one dollar and one cent or fifty cents or three cents"),
        ("$20 million, £5.2 billion", "twenty million dollars five point two billion pounds"),
        ("$5m, £3.5bn or $20K", "five million dollars three point five billion pounds or twenty thousand dollars"),
        ("$5 m, $5mm, $1b", "five dollars m five dollars mm one billion dollars"),
        ("¥1,000 $5 $6", "one thousand yen five dollars six dollars"),
        ("1½ cups, 3/4 of it, ⅔, 1 1/2", "one and one half cups three quarters of it two thirds one and one half"),
        ("24/7, 9/11, 3/4/2020, and/or", "twenty four seven nine eleven three four two thousand and twenty and or"),
        ("<COMMA> so [UNK] (noise) {cough} <SIL>", "so"),
        ("((laughs) a < b", "a b"),
        ("1/0 ½% $", "one zero one half percent"),
        ("1" * 20, " ".join(["one"] * 20)),
    ],
)
def test_says_what_is_written(written, said):
    assert normalise(written) == said


@given(st.text())
def test_idempotent(text):
    assert normalise(normalise(text)) == normalise(text)


@given(st.text())
def test_holds_only_words(text):
    out = normalise(text)
    assert out == " ".join(out.split())
    assert not re.search(r"[\d.,;:!?\"-]|(^| )'|'( |$)", out)
    assert out == out.casefold()


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz '"), st.sampled_from('.,;:!?"()-'))
def test_punctuation_and_case_do_not_matter(text, mark):
    assert normalise(text.upper() + mark) == normalise(text)


@given(st.integers(0, 10**15 - 1))
def test_digits_grouped_or_not_are_the_same_number(number):
    assert normalise(f"{number:,}") == normalise(str(number))


@given(st.text(alphabet="0123456789.,/⁄ $£€¥₹¢%½¾dollar", max_size=20))
def test_every_number_and_price_becomes_words(text):
    assert re.fullmatch(r"[a-z ]*", normalise(text)) and normalise(normalise(text)) == normalise(text)
