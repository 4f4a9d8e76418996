"""The one place that turns texts into embeddings outside of training.

N texts, B rows of a micro-batch, L tokens, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.micro_batches import cut_micro_batches
from pipeline_lib.progress import Progress, silent


def embed_ids(
    encoder: Encoder,
    sequences: Sequence[Sequence[int] | np.ndarray],
    batch_tokens: int = 16_384,
    progress: Progress = silent,
) -> np.ndarray:
    """Unit vectors of token sequences, float32 (N, D), in their order.

    Args:
        encoder: its mode is restored afterwards; dropout is off meanwhile.
        sequences: ids with their delimiters, as `PairTokenizer.encode` gives them.
        batch_tokens: padded tokens of one forward pass; does not change the vectors beyond rounding.
        progress: told the texts done after each forward pass.
    """
    emb_ND = np.empty((len(sequences), encoder.width), dtype=np.float32)
    was_training = encoder.training
    encoder.eval()
    done = 0
    try:
        with torch.inference_mode():
            for batch in cut_micro_batches(sequences, batch_tokens, packed=encoder.packed):
                emb_BD = encoder(batch.ids_BL.to(encoder.device), batch.lengths_B.to(encoder.device))
                emb_ND[batch.rows_B.numpy()] = emb_BD.float().cpu().numpy()
                done += len(batch.rows_B)
                progress(done, len(sequences), f"{done:,} texts")
    finally:
        encoder.train(was_training)
    return emb_ND
