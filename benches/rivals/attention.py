"""Times the attention of a record's cases with PyTorch's SDPA by backend, FlashInfer and FlashAttention-3, where they are there.

Only cases whose requests are all alike are timed: decodes with one context, or one prefill without any.
"""

import time

from common import Bench, Record, arguments, open_torch, read_records

PAGE = 64
# Decodes with shorter contexts are there for their products.
LEAST_CONTEXT = 1024
HEADS = {"llama-3-8b": (32, 8, 128), "llama-3-70b-tp8": (8, 1, 128), "llama-3.2-1b": (32, 8, 64)}


def cases(records):
    """(model, case, requests, queries, keys)."""
    found = []
    for record in records:
        for case in record["cases"]:
            tokens, prefills, decodes = case["step"]
            if record["model"] not in HEADS:
                continue
            if prefills == 0 and case["context"] + 1 >= LEAST_CONTEXT:
                found.append((record["model"], case["case"], decodes, 1, case["context"] + 1))
            elif decodes == 0 and prefills == 1:
                found.append((record["model"], case["case"], 1, tokens, tokens))
    return found


def sdpa(torch, bench, record, key, shape, tensors):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    requests, queries, keys = shape
    names = [("flash", "FLASH_ATTENTION"), ("cudnn", "CUDNN_ATTENTION"), ("efficient", "EFFICIENT_ATTENTION")]
    for name, backend in names:
        rival = f"SDPA {name}"
        try:
            backend = getattr(SDPBackend, backend)
            heads = lambda tensor: tensor.transpose(1, 2)
            attend = lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(
                heads(q), heads(k), heads(v), is_causal=queries > 1, enable_gqa=True
            )

            def call(q, k, v):
                with sdpa_kernel(backend):
                    return attend(q, k, v)

            record.add(rival, key, time_sets(bench, tensors, call))
        except (RuntimeError, AttributeError, TypeError) as error:
            record.miss(rival, error, **key)


def time_sets(bench, tensors, call):
    q, sets = tensors
    bytes_each = sum(tensor.numel() * tensor.element_size() for tensor in sets[0])
    rotates = len(sets) * bytes_each >= 4 * bench.cache_bytes
    with bench.torch.no_grad():
        return bench.time([lambda k=k, v=v: call(q, k, v) for k, v in sets], rotates)


def flash_attention_3(bench, record, key, shape, tensors):
    try:
        from flash_attn_interface import flash_attn_func, flash_attn_with_kvcache
    except ImportError as error:
        record.miss("FlashAttention-3", error, **key)
        return
    try:
        _, queries, _ = shape
        if queries > 1:
            call = lambda q, k, v: flash_attn_func(q, k, v, causal=True)
        else:
            call = lambda q, k, v: flash_attn_with_kvcache(q, k, v, causal=True)
        record.add("FlashAttention-3", key, time_sets(bench, tensors, call))
    except (RuntimeError, TypeError, ValueError) as error:
        record.miss("FlashAttention-3", error, **key)


def flashinfer(torch, bench, record, key, shape, heads, tensors):
    try:
        import flashinfer
    except ImportError as error:
        record.miss("FlashInfer", error, **key)
        return
    requests, queries, keys = shape
    query_heads, kv_heads, width = heads
    try:
        record.versions["flashinfer"] = flashinfer.__version__
        q, sets = tensors
        pages = keys // PAGE
        if keys % PAGE:
            raise ValueError("keys are no whole pages")
        place = lambda values: torch.tensor(values, dtype=torch.int32, device="cuda")
        starts = place([pages * request for request in range(requests + 1)])
        table = torch.randperm(requests * pages, device="cuda").to(torch.int32)
        last = place([PAGE] * requests)
        workspace = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
        paged = [
            (k.reshape(-1, PAGE, kv_heads, width), v.reshape(-1, PAGE, kv_heads, width)) for k, v in sets
        ]
        if queries > 1:
            wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
            spans = place([queries * request for request in range(requests + 1)])
            wrapper.plan(spans, starts, table, last, query_heads, kv_heads, width, PAGE, causal=True,
                         q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16)
        else:
            wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=True)
            wrapper.plan(starts, table, last, query_heads, kv_heads, width, PAGE,
                         q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16)
        rows = q.reshape(-1, query_heads, width)
        call = lambda _, k, v: wrapper.run(rows, (k, v))
        record.add("FlashInfer", key, time_sets(bench, (q, paged), call))
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        record.miss("FlashInfer", error, **key)


def main():
    options = arguments(__doc__)
    record = Record("attention")
    torch = open_torch(record)
    if torch is not None:
        bench = Bench(torch, options.repeats)
        began = time.monotonic()
        for model, case, requests, queries, keys in cases(read_records(options.ours)):
            key = {"model": model, "case": case}
            if time.monotonic() - began > options.seconds:
                record.miss("SDPA", "no time was left", **key)
                continue
            query_heads, kv_heads, width = HEADS[model]
            random = lambda tokens, heads: torch.randn(requests, tokens, heads, width, device="cuda", dtype=torch.bfloat16)
            try:
                count = bench.places(2 * 2 * requests * keys * kv_heads * width, most=16)
                tensors = (random(queries, query_heads), [(random(keys, kv_heads), random(keys, kv_heads)) for _ in range(count)])
            except RuntimeError as error:
                record.miss("PyTorch", error, **key)
                continue
            shape = (requests, queries, keys)
            sdpa(torch, bench, record, key, shape, tensors)
            flashinfer(torch, bench, record, key, shape, (query_heads, kv_heads, width), tensors)
            flash_attention_3(bench, record, key, shape, tensors)
            del tensors
    record.write(options.output)


if __name__ == "__main__":
    main()
