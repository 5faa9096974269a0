"""Text to sentences that join to the text again, by the rules of sentencex (Wikimedia).

Of the libraries that cut by rules and download nothing, it is the one that is kept, small and fast.  Measured on 2.8 M
characters of comments, articles and legal text, one core (release; size with what it brings; million characters per
second; documents of 1,900 that do not join to their text again):

    sentencex          2026   5 MB   4.2     0
    spaCy sentencizer  2026 315 MB   1.0     0    PHF's; its marks of quotation end up in the wrong sentence, too
    syntok             2022   4 MB   1.2  1026
    sentence-splitter  2019   4 MB   0.8  1708    quadratic in "Hi there. Hi there."
    pysbd              2021   1 MB   0.2   298    quadratic in "Mr. Mr."

(wtpsplit needs torch and weights, nltk's punkt a download; blingfire is of 2021 and 99 MB.)  It is shown the text with
some characters replaced, one for one, and its pieces' lengths are laid on the real text:

* White space beyond ASCII becomes plain: in front of some abbreviations it made the library panic.
* All marks of quotation become closing ones.  It never cuts between an opening and a closing one, so that a comment
  with a quotation mark at either end, or an article with an odd number of them, was a single sentence (one of 12,429
  characters in wikitext).  The price, as with spaCy: `"Why?" he asked.` is two.
"""

from importlib import metadata
from itertools import accumulate, pairwise

from apo.lazy import Lazy

sentencex = Lazy("sentencex")
LANGUAGE = "en"
DOUBLE, SINGLE = "\"“„‟«»‹›", "'‘‚‛`"
SHOWN = {**{code: " " for code in range(0x80, 0x3001) if chr(code).isspace()}, **dict.fromkeys(map(ord, DOUBLE), "”"),
         **dict.fromkeys(map(ord, "\x85\u2028\u2029"), "\n"), **dict.fromkeys(map(ord, SINGLE), "’")}
QUOTES = DOUBLE + SINGLE + "”’"


def version() -> str:
    """What the cuts depend on."""
    return f"sentencex {metadata.version('sentencex')}, {LANGUAGE}, 1"


def sentences(text: str) -> list[str]:
    """The sentences, each with the white space behind it; no piece is white space alone, unless the text is."""
    kept: list[str] = []
    for piece in _pieces(text):
        body = kept[-1].rstrip(QUOTES) if kept else ""
        if body[-1:].isspace():     # what stands behind the white space opens this sentence
            kept[-1], piece = body, kept[-1][len(body):] + piece
        if kept and (piece.isspace() or kept[-1].isspace()):
            kept[-1] += piece
        else:
            kept.append(piece)
    return kept


def _pieces(text: str) -> list[str]:
    """In doubt the text is left whole: it is never changed, and no text can stop a run."""
    try:
        lengths = list(map(len, sentencex.segment(LANGUAGE, text.translate(SHOWN))))
    except BaseException as error:      # Rust's panic is no Exception, and its class cannot be imported
        if type(error).__name__ != "PanicException":
            raise
        return [text]
    if sum(lengths) != len(text):
        return [text]
    return [text[begin:end] for begin, end in pairwise(accumulate(lengths, initial=0)) if end > begin]
