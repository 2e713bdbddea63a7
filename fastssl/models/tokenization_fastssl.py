"""The tokenizer of exports whose ``AutoTokenizer`` would make one by rules of its own from the vocabulary (Qwen2).

``fastssl export --to huggingface`` copies this file, which needs no fastssl, into their folders, and names it in
``tokenizer_config.json``: ``AutoTokenizer`` then loads ``tokenizer.json`` as it stands, with this class
(``trust_remote_code=True``) or with that which the file names.
"""

from transformers import PreTrainedTokenizerFast


class FastSSLTokenizer(PreTrainedTokenizerFast):
    """The tokenizer of ``tokenizer.json``."""
