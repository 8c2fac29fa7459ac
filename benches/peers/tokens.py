"""Tokenises captions with open_clip's tokenizer."""

import pathlib

from open_clip import SimpleTokenizer


class Tokens:
    """Captions in memory. A round tokenises each of them once; the tokenizer caches words across rounds, as in training."""

    def __init__(self, case):
        self.captions = pathlib.Path(case["file"]).read_text(encoding="utf-8").splitlines()
        self.tokenizer = SimpleTokenizer(context_length=case["context"])

    def check(self):
        return self.tokenizer(self.captions).flatten()

    def round(self):
        self.tokenizer(self.captions)
        return len(self.captions)
