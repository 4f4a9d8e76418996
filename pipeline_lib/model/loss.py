"""Contrastive loss: symmetric cross entropy over in-batch negatives, false negatives left out (paper, section 2).

    logit(x_i, y_j) = cos(x_i, y_j) * exp(tau)
    loss = mean over i of (lse_j logit(x_i, y_j) + lse_j logit(x_j, y_i)) / 2 - logit(x_i, y_i)

Explicit hard negatives are y-side texts that belong to no x: further candidates of every x of the global batch, whichever
pair brought them. They ask for nothing themselves, so that they join the first of the two terms only.

False negatives are known by their texts, or by their scores (GISTEmbed, arXiv 2402.16829): a candidate nearer than the
positive, by the model itself or by a guide. A guide's scores can also teach: as a distribution over the candidates (KL), and as
the distance between a pair and its own hard negatives (MarginMSE, arXiv 2010.02666).

B pairs of the global batch, M hard negatives, K = B + M candidates of an x, R rows that this process answers for, C rows of
one tile, D embedding width, G the guide's. One side's embeddings are the queries q, the other's the candidates c; both
directions run through the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline_lib.model.pooling import prefix

# Logits held at once: 64 MiB in float32. All of a batch of 4,096; a batch of 12,288 takes ten tiles a direction.
TILE_LOGITS = 1 << 24

Directions = Literal["both", "x_to_y", "y_to_x"]
SidesLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Guidance:
    """What scores say of a batch: which candidates are too near to be negatives, and what a guide makes of all of them.

    Attributes:
        margin: a candidate that scores above its query's positive and this is no negative; None: scores say nothing of that.
        relative: the margin is a share of the positive's score, in place of a cosine.
        x_BG: the guide's unit vectors; None: there is no guide, and the model's own scores decide.
        y_KG: likewise, those of the hard negatives behind those of the pairs.
        by_own: the model's own scores decide although there is a guide, which only teaches.
        by_whole: those of the whole vectors, where the loss is of prefixes.
        own: vectors whose cosines are those scores: every x (B, D) and candidate (K, D); None: those of the loss itself.
        kl_weight: of the divergence of the model's distribution over the candidates from the guide's.
        kl_temperature: of the guide's distribution.
        margin_mse_weight: of the squared error of cos(x, y) - cos(x, negative) against the guide's, over the pairs' own hard
            negatives.
        owner_M: the pair that brought each hard negative.
        masked: gets the number of entries that were left out, a scalar on the device for every term of the loss.
    """

    margin: float | None = None
    relative: bool = False
    x_BG: Tensor | None = None
    y_KG: Tensor | None = None
    by_own: bool = False
    by_whole: bool = False
    own: tuple[Tensor, Tensor] | None = None
    kl_weight: float = 0.0
    kl_temperature: float = 0.05
    margin_mse_weight: float = 0.0
    owner_M: Tensor | None = None
    masked: list[Tensor] = field(default_factory=list)

    def swapped(self) -> Guidance:
        """The same of y asking for x."""
        own = self.own and (self.own[1][: len(self.own[0])], self.own[0])
        if self.x_BG is None or self.y_KG is None:
            return replace(self, own=own)
        return replace(self, x_BG=self.y_KG[: len(self.x_BG)], y_KG=self.x_BG, owner_M=None, own=own)

    def to(self, device: torch.device) -> Guidance:
        """The same on another device."""
        given = {name: getattr(self, name) for name in ("x_BG", "y_KG", "owner_M")}
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in given.items() if tensor is not None}
        return replace(self, **moved)

    def scores(self, begin: int, end: int) -> Tensor | None:
        """The guide's cosines of queries begin..end and all candidates: (C, K); None without a guide."""
        return None if self.x_BG is None or self.y_KG is None else self.x_BG[begin:end] @ self.y_KG.T

    def own_scores(self, logits_CK: Tensor, scale: Tensor, begin: int) -> Tensor:
        """The model's own cosines of the queries from `begin` on and all candidates: (C, K)."""
        if self.own is None:
            return logits_CK / scale
        return self.own[0][begin : begin + len(logits_CK)] @ self.own[1].T

    def too_near(self, scores_CK: Tensor, begin: int) -> Tensor:
        """Candidates that score above their query's positive and the margin: bool (C, K), never the positives."""
        assert self.margin is not None, "without a margin nothing is too near"
        positive_C1 = scores_CK.diagonal(begin)[:, None]
        limit_C1 = positive_C1 + self.margin * (positive_C1.abs() if self.relative else 1.0)
        mask_CK = scores_CK > limit_C1
        mask_CK.diagonal(begin).fill_(False)
        return mask_CK


@dataclass(frozen=True)
class PairHashes:
    """Identities of the batch's texts; equal texts have equal hashes, whichever side they stand on."""

    x_B: Tensor  # int64
    y_B: Tensor  # int64
    document_B: Tensor | None = None  # int64; given: other pairs of the same document are no negatives
    negative_M: Tensor | None = None  # int64; the texts of explicit hard negatives
    guidance: Guidance | None = None  # given: scores have their say too

    def swapped(self) -> PairHashes:
        """The same pairs with y asking for x; hard negatives are y-side and drop out."""
        return PairHashes(self.y_B, self.x_B, self.document_B, guidance=self.guidance and self.guidance.swapped())

    def judged_by(self, x_BD: Tensor, y_KD: Tensor) -> PairHashes:
        """The same with these whole vectors' cosines as the model's own scores, where they decide; no gradient goes to them."""
        if self.guidance is None or not self.guidance.by_whole:
            return self
        return replace(self, guidance=replace(self.guidance, own=(x_BD.detach(), y_KD.detach())))

    def pairs_alone(self) -> PairHashes:
        """The same without hard negatives."""
        return PairHashes(self.x_B, self.y_B, self.document_B)

    def to(self, device: torch.device) -> PairHashes:
        """The same hashes on another device."""
        document_B = None if self.document_B is None else self.document_B.to(device)
        negative_M = None if self.negative_M is None else self.negative_M.to(device)
        guidance = None if self.guidance is None else self.guidance.to(device)
        return PairHashes(self.x_B.to(device), self.y_B.to(device), document_B, negative_M, guidance)


def contrastive_loss(
    x_BD: Tensor,
    y_KD: Tensor,
    log_scale: Tensor,
    hashes: PairHashes,
    rows: slice | None = None,
    directions: Directions = "both",
) -> Tensor:
    """Mean over the global batch of the row and the column cross entropies; a scalar in the embeddings' precision.

    Entry (i, j), i != j, is no negative where x_i = x_j, y_i = y_j or x_i = y_j (in the pairs (p1, p2) and (p2, p3) of one
    document p2 would else be held against itself), or where the documents are the same if `hashes` has them. A hard negative
    is none of x_i where its text is y_i's or x_i's.

    Args:
        x_BD: unit vectors of every pair of the global batch.
        y_KD: likewise; y_i belongs to x_i. The vectors of the hard negatives follow, if there are any.
        log_scale: tau, a scalar; it gets its gradient.
        hashes: of all B pairs, and of as many hard negatives as y_KD has more rows than x_BD; in main memory, where looking
            through them makes no GPU wait. With `guidance`, whose terms are part of the loss.
        rows: the pairs that this process answers for, in both directions. The sum over processes whose slices cover
            0..B is the loss of the whole batch, and so are the sums of the gradients of x_BD, y_KD and log_scale: no
            factor of the number of processes enters. None: all.
        directions: x_to_y, each x among all y, or y_to_x alone: an ablation, the paper's loss is the mean of both.
    """
    n_pairs = len(x_BD)
    begin, end, _ = (rows or slice(None)).indices(n_pairs)
    scale = log_scale.exp()
    n_negatives = 0 if hashes.negative_M is None else len(hashes.negative_M)
    assert len(y_KD) == n_pairs + n_negatives, f"{len(y_KD)} candidates for {n_pairs} pairs and {n_negatives} hard negatives"
    if hashes.guidance is not None:
        hashes = replace(hashes, guidance=hashes.guidance.to(x_BD.device))
    elif directions == "both" and len(y_KD) == end - begin and n_pairs * n_pairs <= TILE_LOGITS:
        return _SquareLoss.apply(x_BD, y_KD, scale, hashes)
    forth = (x_BD, y_KD, scale, hashes, (begin, end))
    back = (y_KD[:n_pairs], x_BD, scale, hashes.swapped(), (begin, end))
    if directions != "both":
        loss = _DirectedLoss.apply(*(forth if directions == "x_to_y" else back))
    else:
        loss = (_DirectedLoss.apply(*forth) + _DirectedLoss.apply(*back)) / 2
    if hashes.guidance is None or not (hashes.guidance.margin_mse_weight and n_negatives):
        return loss
    return loss + hashes.guidance.margin_mse_weight * margin_mse(x_BD, y_KD, hashes.guidance, (begin, end))


def margin_mse(x_BD: Tensor, y_KD: Tensor, guidance: Guidance, rows: tuple[int, int]) -> Tensor:
    """Mean squared error of cos(x, y) - cos(x, negative) against the guide's, over the hard negatives that these rows bring."""
    assert guidance.x_BG is not None and guidance.y_KG is not None and guidance.owner_M is not None, "a guide and its triples"
    owner_M, n_pairs = guidance.owner_M, len(x_BD)
    own_m = ((owner_M >= rows[0]) & (owner_M < rows[1])).nonzero().squeeze(1)
    of_m = owner_M[own_m]

    def margins(x_BD: Tensor, y_KD: Tensor) -> Tensor:
        return (x_BD[of_m] * (y_KD[of_m] - y_KD[n_pairs + own_m])).sum(dim=1)

    error_m = margins(x_BD, y_KD) - margins(guidance.x_BG, guidance.y_KG).to(x_BD.dtype)
    return error_m.square().sum() / len(owner_M)


def false_negatives(hashes: PairHashes, rows_R: Tensor) -> Tensor:
    """Entries of these rows that are left out of the denominators: bool (R, K), never the positives."""
    x_R1, y_R1 = hashes.x_B[rows_R, None], hashes.y_B[rows_R, None]
    mask_RB = (x_R1 == hashes.x_B) | (y_R1 == hashes.y_B) | (x_R1 == hashes.y_B)
    if hashes.document_B is not None:
        mask_RB |= hashes.document_B[rows_R, None] == hashes.document_B
    mask_RB[torch.arange(len(rows_R), device=mask_RB.device), rows_R] = False
    if hashes.negative_M is None:
        return mask_RB
    return torch.cat([mask_RB, (hashes.negative_M == y_R1) | (hashes.negative_M == x_R1)], dim=1)


def over_prefixes(loss_of: SidesLoss, x_BD: Tensor, y_KD: Tensor, weighted: Sequence[tuple[int, float]]) -> Tensor:
    """Matryoshka's loss (arXiv 2205.13147): the sum of that of each prefix of both sides, times its weight.

    Where no prefix is named it is that of the whole vectors.

    A sum of losses that are sums over ranks is one itself, and so are its gradients.

    Args:
        loss_of: the loss of unit vectors of any width.
        weighted: dimensions and weight of each prefix.
    """
    if not weighted:
        return loss_of(x_BD, y_KD)
    terms = [weight * loss_of(prefix(x_BD, dim), prefix(y_KD, dim)) for dim, weight in weighted]
    return sum(terms[1:], terms[0])


def _repeated(hashes: PairHashes) -> Tensor:
    """Pairs with a text, or a document, that the batch has more than once: bool (B,). No other row has false negatives.

    How many these are decides what is computed: on a GPU, finding it out would wait for all that is queued there.
    """
    n_pairs = len(hashes.x_B)
    sides = [hashes.x_B, hashes.y_B] if hashes.negative_M is None else [hashes.x_B, hashes.y_B, hashes.negative_M]
    often = _is_repeated(torch.cat(sides))
    repeated_B = often[:n_pairs] | often[n_pairs : 2 * n_pairs]
    return repeated_B if hashes.document_B is None else repeated_B | _is_repeated(hashes.document_B)


def _is_repeated(hashes_N: Tensor) -> Tensor:
    _, group_N, sizes = hashes_N.unique(return_inverse=True, return_counts=True)
    return sizes[group_N] > 1


def _scaled_logits(q_CD: Tensor, c_KD: Tensor, hashes: PairHashes, repeated_B: Tensor, begin: int) -> Tensor:
    """Logits of queries begin.. among all candidates, false negatives at minus infinity: (C, K); q is scaled already."""
    logits_CK = q_CD @ c_KD.T
    own_R = repeated_B[begin : begin + len(q_CD)].nonzero().squeeze(1)
    if len(own_R):  # the comparisons are of all K candidates: most batches need them in a few rows only
        own_R = own_R.to(logits_CK.device)
        mask_RK = false_negatives(hashes.to(logits_CK.device), own_R + begin)
        logits_CK[own_R] = logits_CK[own_R].masked_fill_(mask_RK, -torch.inf)
    return logits_CK


class _SquareLoss(torch.autograd.Function):
    """Both directions from one matrix of logits: three matrix products and two exponentials, gradients included."""

    @staticmethod
    def forward(ctx: Any, x_BD: Tensor, y_BD: Tensor, scale: Tensor, hashes: PairHashes) -> Tensor:
        n_pairs = len(x_BD)
        logits_BB = _scaled_logits(x_BD * scale, y_BD, hashes, _repeated(hashes), 0)
        positive_B = logits_BB.diagonal().clone()
        row_top_B, column_top_B = logits_BB.amax(dim=1), logits_BB.amax(dim=0)
        slope_BB = (logits_BB - row_top_B[:, None]).exp_()
        column_exp_BB = logits_BB.sub_(column_top_B).exp_()
        row_sum_B, column_sum_B = slope_BB.sum(dim=1), column_exp_BB.sum(dim=0)
        both_lse_B = row_top_B + row_sum_B.log() + column_top_B + column_sum_B.log()
        loss = (both_lse_B / 2 - positive_B).mean()
        if any(ctx.needs_input_grad):
            # d loss / d logit = ((row softmax + column softmax) / 2 - identity) / B
            slope_BB *= (0.5 / n_pairs / row_sum_B)[:, None]
            slope_BB.addcmul_(column_exp_BB, (0.5 / n_pairs / column_sum_B).expand_as(slope_BB))
            slope_BB.diagonal().sub_(1 / n_pairs)
            ctx.save_for_backward(*_gradients(slope_BB @ y_BD, slope_BB.T @ x_BD, x_BD, scale))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        return *(grad_loss * grad for grad in ctx.saved_tensors), None


class _DirectedLoss(torch.autograd.Function):
    """Rows begin..end as queries against all candidates, tile by tile; gradients are summed up on the way."""

    @staticmethod
    def forward(ctx: Any, q_BD: Tensor, c_KD: Tensor, scale: Tensor, hashes: PairHashes, rows: tuple[int, int]) -> Tensor:
        loss, repeated_B = q_BD.new_zeros(()), _repeated(hashes)
        slope_q_BD, slope_c_KD = torch.zeros_like(q_BD), torch.zeros_like(c_KD)
        for begin, end in _tiles(*rows, len(c_KD)):
            logits_CK = _scaled_logits(q_BD[begin:end] * scale, c_KD, hashes, repeated_B, begin)
            taught = _guided(logits_CK, hashes.guidance, scale, begin) if hashes.guidance else None
            logits_CK -= logits_CK.amax(dim=1, keepdim=True)
            positive_C = logits_CK.diagonal(begin).clone()
            sum_C = logits_CK.exp_().sum(dim=1)
            loss += (sum_C.log() - positive_C).sum() / len(q_BD)
            if taught is not None:
                loss += taught[0] / len(q_BD)
            if any(ctx.needs_input_grad):
                slope_CK = logits_CK.mul_((1 / len(q_BD) / sum_C)[:, None])
                slope_CK.diagonal(begin).sub_(1 / len(q_BD))
                if taught is not None:
                    slope_CK.add_(taught[1], alpha=1 / len(q_BD))
                slope_q_BD[begin:end] = slope_CK @ c_KD
                slope_c_KD.addmm_(slope_CK.T, q_BD[begin:end])
        ctx.save_for_backward(*_gradients(slope_q_BD, slope_c_KD, q_BD, scale))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        return *(grad_loss * grad for grad in ctx.saved_tensors), None, None


def _guided(logits_CK: Tensor, guidance: Guidance, scale: Tensor, begin: int) -> tuple[Tensor, Tensor] | None:
    """Set the logits of false negatives by score to minus infinity; returns the divergence from the guide, and its slope.

    The divergence is over all candidates but equal texts: what is too near to be a negative has a share of both distributions.
    """
    guide_CK = guidance.scores(begin, begin + len(logits_CK))
    taught = None
    if guidance.kl_weight:
        assert guide_CK is not None, "a divergence from a guide that is not there"
        taught = _divergence(logits_CK, guide_CK.to(logits_CK.dtype) / guidance.kl_temperature)
        taught = taught[0] * guidance.kl_weight, taught[1] * guidance.kl_weight
    if guidance.margin is not None:
        is_own = guide_CK is None or guidance.by_own
        near_CK = guidance.too_near(guidance.own_scores(logits_CK, scale, begin) if is_own else guide_CK, begin)
        near_CK &= logits_CK > -torch.inf  # those are left out in any case
        guidance.masked.append(near_CK.sum())
        logits_CK.masked_fill_(near_CK, -torch.inf)
    return taught


def _divergence(logits_CK: Tensor, guide_CK: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over rows of KL(guide || model), and its slope by the logits: model's minus guide's probabilities."""
    out_CK = logits_CK == -torch.inf
    log_p_CK = logits_CK.log_softmax(dim=1).masked_fill_(out_CK, 0.0)
    log_q_CK = guide_CK.masked_fill(out_CK, -torch.inf).log_softmax(dim=1).masked_fill_(out_CK, 0.0)
    q_CK = log_q_CK.exp().masked_fill_(out_CK, 0.0)
    p_CK = log_p_CK.exp().masked_fill_(out_CK, 0.0)
    return (q_CK * (log_q_CK - log_p_CK)).sum(), p_CK - q_CK


def _gradients(slope_q_BD: Tensor, slope_c_KD: Tensor, q_BD: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the queries, the candidates and the scale, from d loss / d logit times the other side's vectors.

    The scale's is the sum of (d loss / d logit) cos over all entries: that of the queries' rows with what they are multiplied
    by, so that no matrix of cosines is kept.
    """
    grad_scale = torch.dot(slope_q_BD.flatten(), q_BD.flatten()).reshape(scale.shape)
    return slope_q_BD * scale, slope_c_KD * scale, grad_scale


def _tiles(begin: int, end: int, n_columns: int) -> list[tuple[int, int]]:
    height = max(1, TILE_LOGITS // n_columns)
    return [(start, min(start + height, end)) for start in range(begin, end, height)]
