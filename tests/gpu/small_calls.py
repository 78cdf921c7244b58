"""Every kernel once, on small inputs of odd sizes: for compute-sanitizer, under which kernels are very slow."""

from __future__ import annotations

import torch

import farspan

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def main() -> None:
    torch.manual_seed(0)
    for dtype in DTYPES:
        for dim in (40, 128, 200):
            for queries in (1, 37):
                attention(dtype, dim, queries)
                report(f"attention of {dtype}, {dim} dimensions, {queries} queries")
        for rows in (1, 9, 70):
            unembedding(dtype, rows)
            report(f"unembedding of {dtype}, {rows} rows")
            losses(dtype, rows)
            report(f"losses of {dtype}, {rows} rows, and their gradients")
    print("every kernel ran")


def report(what: str) -> None:
    torch.cuda.synchronize()
    print(f"ran: {what}")


def attention(dtype: torch.dtype, dim: int, queries: int) -> None:
    query, key, value = (normal(2, heads, time, dim).to(dtype) for heads, time in ((4, queries), (2, 150), (2, 150)))
    rotary = farspan.Rotary(
        torch.rand(dim // 2, device="cuda"), border=30, far_query_positions=torch.arange(queries, device="cuda"),
        far_key_positions=torch.arange(150, device="cuda"),
    )  # fmt: skip
    bias = farspan.DistanceBias(normal(4, 60))
    farspan.attention(query, key, value, causal=True, window=100, keep_first=3)
    hooks = {"key_bias": normal(150), "distance_bias": bias, "rotary": rotary, "softcap": 9.0}
    farspan.attention(query, key, value, **hooks)
    farspan.attention_statistics(query, key, causal=True, window=100, keep_first=3)
    farspan.attention_statistics(query, key, **hooks)
    asking = [x.clone().requires_grad_() for x in (query, key, value, hooks["key_bias"], bias.table)]
    hooks |= {"key_bias": asking[3], "distance_bias": farspan.DistanceBias(asking[4])}
    farspan.attention(*asking[:3], causal=True, window=100, keep_first=3).sum().backward()
    farspan.attention(*asking[:3], **hooks).sum().backward()
    packed, offsets = query.transpose(1, 2).flatten(0, 1), torch.tensor([0, queries, 2 * queries], device="cuda")
    farspan.attention(packed, packed, packed, causal=True, query_offsets=offsets, key_offsets=offsets)
    for size in (5, 16, 64):
        table = torch.randperm(2 * (150 // size), device="cuda").view(2, -1)
        pages = [normal(table.numel(), 2, size, dim).to(dtype) for _ in range(2)]
        farspan.attention(query, *pages, causal=True, block_table=table)


def unembedding(dtype: torch.dtype, rows: int) -> None:
    hidden, weight = normal(rows, 72).to(dtype), normal(3001, 72).to(dtype)
    farspan.greedy(hidden, weight)
    assert farspan.sample(hidden, weight, seed=1, position=2).rank is not None
    assert farspan.sample(hidden, weight, seed=1, position=2, top_k=40, top_p=0.9, samples=2, top=3).rank is not None
    farspan.score(hidden, weight, torch.arange(rows, device="cuda"), top=2)
    farspan.top(hidden, weight, 5)


def losses(dtype: torch.dtype, rows: int) -> None:
    hidden, weight = (normal(size, 72).to(dtype).requires_grad_() for size in (rows, 1301))
    bias, targets = normal(1301).requires_grad_(), torch.arange(rows, device="cuda")
    targets[rows // 2] = -100
    given = {"bias": bias, "valid_vocab": 1290, "softcap": 9.0}
    farspan.linear_cross_entropy(hidden, weight, targets, label_smoothing=0.1, z_loss=1e-3, **given).backward()
    farspan.score(hidden, weight, targets.clamp(0), top=2, **given).top_logprob.sum().backward()
    farspan.divergence(hidden, weight, normal(rows, 72).to(dtype), temperature=2.0, **given).sum().backward()


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda")


if __name__ == "__main__":
    main()
