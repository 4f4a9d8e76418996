"""Use of a model, for its card: trained with delimiters, or begun as one of sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# pooling to words, and to an expression of the states (B, L, D) and the mask (B, L)
POOLINGS = {
    "last": ("the last layer's state at the last token", "states[torch.arange(len(states)), mask.sum(1) - 1]"),
    "cls": ("the last layer's state at the first token", "states[:, 0]"),
    "mean": ("the mean of the last layer's states", "(states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)"),
    "max": (
        "the maximum of the last layer's states in each dimension",
        "states.masked_fill(mask[:, :, None] == 0, -torch.inf).max(1).values",
    ),
    "mean_sqrt_len_tokens": (
        "the sum of the last layer's states over the root of their number",
        "(states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True) ** 0.5",
    ),
    "weightedmean": (
        "the mean of the last layer's states, weighted by their position",
        "(states * (mask.cumsum(1) * mask)[:, :, None]).sum(1) / (mask.cumsum(1) * mask).sum(1, keepdim=True)",
    ),
}
# of a model with delimiters, by whether a query's differ from a document's, and by its pooling
WRAPPED = {
    True: "A query (x) is wrapped in `[` `]`, a document or function body (y) in `{` `}`;",
    False: "Every text is wrapped in `[` `]`;",
}
STATES = {
    "last": "the last layer's state at the closing\ndelimiter,",
    "mean": "the mean of the last layer's states,",
    "idf_mean": "the mean of the last layer's states,\nweighted by the inverse document frequency of their tokens,",
}
POOLED = {
    "last": ('last = batch["attention_mask"].sum(1) - 1', "states[torch.arange(len(last)), last]"),
    "mean": ('mask = batch["attention_mask"][:, :, None]', "(states * mask).sum(1) / mask.sum(1)"),
    "idf_mean": (
        'weights = load_file(f"{folder}/encoder/token_weights.safetensors")["weights"][batch["input_ids"]]\n'
        'mask = (weights * batch["attention_mask"])[:, :, None]',
        "(states * mask).sum(1) / mask.sum(1)",
    ),
}
TEXTS = '["parse an ISO 8601 date", ""]'
WITHOUT_WEIGHTS = {"Normalize", "Dropout"}


def usage(figures: Mapping[str, Any]) -> str:
    """The section on use.

    Args:
        figures: facts of the export: distinct, pooling, dim; of a model that began as one of sentence-transformers prompts,
            modules, include_prompt, architecture and max_x_tokens.
    """
    return _of_sentence_transformers(figures) if "prompts" in figures else _of_delimiters(figures)


def use_of_both(figures: Mapping[str, Any]) -> str:
    """What must be known of two models side by side; empty of one alone."""
    beside = figures.get("beside")
    return _BOTH.format(share=beside["share"], own=beside["own_dim"], dim=figures["dim"]) if beside else ""


def _of_delimiters(figures: Mapping[str, Any]) -> str:
    wrapped, state, (line, expression) = WRAPPED[figures["distinct"]], STATES[figures["pooling"]], POOLED[figures["pooling"]]
    before: Mapping[str, str] = figures.get("before") or {}
    put = f" It was trained with {said_before(before)}: `encode_query` and `encode_document` put it there." if before else ""
    text = _DELIMITERS.format(wrapped=wrapped, state=state, before=put)
    if figures.get("prompts_left_out"):  # the recipe would pool them
        return f"{text}\nThe mean leaves a prompt's tokens out.\n"
    return text + _DELIMITERS_TRANSFORMERS.format(
        prompt=f"prompt = {before.get('query', '')!r}  # of a query\n" if before else "",
        texts=f"[prompt + text for text in {TEXTS}]" if before else TEXTS,
        line=line,
        reader="from safetensors.torch import load_file\n" if "load_file" in line else "",
        expression=f"({expression})[:, :{figures['dim']}]" if "whole_dim" in figures else expression,
    )


def _of_sentence_transformers(figures: Mapping[str, Any]) -> str:
    poolings = figures["pooling"].split("+")
    vector = ", followed by ".join(POOLINGS[pooling][0] for pooling in poolings)
    behind = [kind for kind in figures["modules"] if kind not in WITHOUT_WEIGHTS]
    modules = f", through {' and '.join(behind)}" if behind else ""
    normalised = "" if "Normalize" in figures["modules"] else " Vectors are not of length 1: compare them by cosines."
    text = _USAGE.format(before=_before(figures["prompts"]), vector=vector, modules=modules, normalised=normalised)
    is_plain = len(poolings) == 1 and not behind and not figures["architecture"].endswith("EncoderModel")
    if not is_plain or (figures["prompts"] and not figures["include_prompt"]):
        return text
    prompt, expression = figures["prompts"].get("query", ""), POOLINGS[poolings[0]][1]
    return text + _TRANSFORMERS.format(prompt=prompt, expression=expression, longest=figures["max_x_tokens"])


def _before(prompts: Mapping[str, str]) -> str:
    if not prompts:
        return "Queries and documents are embedded as they are, in the special tokens of the tokenizer: pass plain text."
    return f"The model wants {said_before(prompts)}; `encode_query` and `encode_document` put it there: pass plain text."


def said_before(prompts: Mapping[str, str]) -> str:
    """The prompts of the sides in words."""
    return " and ".join(f"`{prompt!r}` before every {name}" for name, prompt in prompts.items())


_BOTH = """
That is the first of two models, {own} of {dim} dimensions. The second lies in `beside/`. What was measured and indexed are both
side by side, each scaled by the root of its share ({share:g} is the second's), so that a cosine is the mean of both:

```python
import numpy as np
from sentence_transformers import SentenceTransformer

own, other, share = SentenceTransformer("path/to/this/folder"), SentenceTransformer("path/to/this/folder/beside"), {share:g}


def both(texts, side):  # side: "query" or "document"
    parts = [getattr(model, f"encode_{{side}}")(texts, normalize_embeddings=True) for model in (own, other)]
    return np.concatenate([parts[0] * (1 - share) ** 0.5, parts[1] * share**0.5], axis=1)
```
"""

_DELIMITERS = """\
## Use

{wrapped} {state} normalised to length 1, is the embedding. The tokenizers add the delimiters, as reserved ids: pass plain \
text.{before}

With [sentence-transformers](https://sbert.net); no `trust_remote_code`:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
queries = model.encode_query(["parse an ISO 8601 date"])
documents = model.encode_document(["def parse(text):\\n    return datetime.fromisoformat(text)"])
print(model.similarity(queries, documents))  # plain encode() takes the query side
```

Where a framework calls `encode` itself, its `encode_kwargs` name the side: `{{"task": "query"}}` or `{{"task": "document"}}`. A
prompt or an instruction names none.
"""

_DELIMITERS_TRANSFORMERS = """
With transformers alone:

```python
import torch
{reader}from transformers import AutoModel, AutoTokenizer

folder, side = "path/to/this/folder", "query"  # or "document"
{prompt}tokenizer = AutoTokenizer.from_pretrained(f"{{folder}}/{{side}}")
model = AutoModel.from_pretrained(f"{{folder}}/encoder").eval()
batch = tokenizer({texts}, padding=True, truncation=True, return_tensors="pt")
{line}
with torch.no_grad():
    states = model(**batch).last_hidden_state
vectors = torch.nn.functional.normalize({expression}, dim=-1)
```
"""

_USAGE = """\
## Use

{before} The embedding is {vector}{modules}.{normalised}

With [sentence-transformers](https://sbert.net); no `trust_remote_code`:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
queries = model.encode_query(["parse an ISO 8601 date"])
documents = model.encode_document(["def parse(text):\\n    return datetime.fromisoformat(text)"])
print(model.similarity(queries, documents))
```
"""

_TRANSFORMERS = """
With transformers alone:

```python
import torch
from transformers import AutoModel, AutoTokenizer

folder, prompt = "path/to/this/folder", {prompt!r}  # of a query
tokenizer = AutoTokenizer.from_pretrained(f"{{folder}}/encoder")
model = AutoModel.from_pretrained(f"{{folder}}/encoder").eval()
texts = [prompt + text for text in ["parse an ISO 8601 date", "sort"]]
batch = tokenizer(texts, padding=True, truncation=True, max_length={longest}, return_tensors="pt")
mask = batch["attention_mask"]
with torch.no_grad():
    states = model(**batch).last_hidden_state
vectors = torch.nn.functional.normalize({expression}, dim=-1)
```
"""
