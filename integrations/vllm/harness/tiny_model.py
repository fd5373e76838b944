"""A Llama of 0.4 million random weights with a tokenizer of its own: `python -m harness.tiny_model DIR`.

It says nothing sensible, but it is a real model: what it computes depends on all of its context, and the same
machine makes the same one again.
"""

import argparse
import contextlib
import hashlib
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

VOCABULARY: Final = 1024
MAX_POSITIONS: Final = 8192

# Content may be absent, and calls of tools are part of the context.
CHAT_TEMPLATE: Final = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] or '' }}"
    "{% for call in message['tool_calls'] or [] %}<call>{{ call | tojson }}</call>{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SYLLABLES: Final = [first + second for first in "bdfghklmnprstvw" for second in ("a", "e", "i", "o", "u")]


def make_tiny_model(folder: Path) -> None:
    """Writes model and tokenizer into `folder`, in the format that `vllm serve` reads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_POSITIONS,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def kept_model(folder: Path) -> Path:
    """Returns the model's folder within `folder`; makes it there if this version of it has not been made."""
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    kept = folder / f"tiny-llama-{version}"
    if not kept.is_dir():
        with tempfile.TemporaryDirectory(dir=folder) as made:
            make_tiny_model(Path(made) / "model")
            # Another process may have been faster; its model is the same.
            with contextlib.suppress(OSError):
                (Path(made) / "model").rename(kept)
    return kept


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _corpus() -> Iterator[str]:
    """Yields lines of made-up words, the roles of a chat, and JSON as tools write it."""
    rng = random.Random(0)
    words = ["".join(rng.choices(_SYLLABLES, k=rng.choice((1, 2, 2, 3)))) for _ in range(600)]
    for _ in range(3000):
        line = " ".join(rng.choices(words, k=rng.randint(4, 14)))
        yield f"{line.capitalize()}.\n"
    for word in words[:200]:
        yield f'{{"name": "{word}", "arguments": {{"{word}": {rng.randint(0, 9999)}}}}}\n'
    for role in ("system", "user", "assistant", "tool", "tools"):
        yield from [f"{role}\n"] * 100


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes a tiny Llama with random weights.")
    parser.add_argument("folder", type=Path)
    make_tiny_model(parser.parse_args().folder)


if __name__ == "__main__":
    main()
