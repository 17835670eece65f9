"""Times the matrix products of a record with cublasLt (the best of its heuristics) and with torch.matmul."""

import time

from common import Bench, Record, arguments, open_torch, read_records
from cublaslt import CublasError, CublasLt, Product

# Samples by which algorithms are told apart; the best few are timed in full.
FEW = 10
FINALISTS = 3


def sizes(records):
    """(m, n, k, whether the output is float32) of every product, small ones first, each once."""
    found = {}
    for record in records:
        for case in record["cases"]:
            for kernel in case["kernels"]:
                if kernel["product"]:
                    m, n, k = kernel["product"]
                    found[m, n, k] = kernel["written_bytes"] == 4 * m * n
    return sorted((m, n, k, wide) for (m, n, k), wide in found.items())


def best_of_cublaslt(library, bench, inputs, weights, outputs, rotates, m, n, k, wide):
    """Times of the fastest algorithm, how many there were, and its place among the heuristics' guesses."""
    product = Product(library, m, n, k, wide)
    try:
        count = max(len(inputs), len(weights))
        calls = lambda algorithm: [
            lambda place=place: product.launch(algorithm, inputs[0], weights[place % len(weights)], outputs[0])
            for place in range(count)
        ]
        tried = []
        for place, algorithm in enumerate(product.algorithms()):
            try:
                tried.append((bench.time(calls(algorithm), rotates, FEW)["median"], place, algorithm))
            except CublasError:
                continue
        if not tried:
            raise CublasError("no algorithm that the heuristics offer ran")
        tried.sort(key=lambda one: one[:2])
        finals = [(bench.time(calls(algorithm), rotates), place) for _, place, algorithm in tried[:FINALISTS]]
        times, place = min(finals, key=lambda one: one[0]["median"])
        return times, len(tried), place
    finally:
        product.close()


def agrees(torch, library, m, n, k, wide, input, weights, output):
    """Whether the first algorithm computes what torch computes: the layouts are right."""
    product = Product(library, m, n, k, wide)
    try:
        offered = product.algorithms()
        if not offered:
            return True
        product.launch(offered[0], input, weights, output)
        expected = input @ weights.t()
        return torch.allclose(output.float(), expected.float(), rtol=0.05, atol=0.05)
    finally:
        product.close()


def main():
    options = arguments(__doc__)
    record = Record("products")
    torch = open_torch(record)
    if torch is not None:
        run(torch, record, options)
    record.write(options.output)


def run(torch, record, options):
    bench = Bench(torch, options.repeats)
    try:
        library = CublasLt(torch)
        record.versions.update(cublaslt=library.version, cublaslt_file=library.name)
    except (CublasError, AttributeError) as error:
        record.miss("cublasLt", error)
        library = None
    began = time.monotonic()
    for m, n, k, wide in sizes(read_records(options.ours)):
        key = {"product": [m, n, k]}
        if time.monotonic() - began > options.seconds:
            record.miss("cublasLt", "no time was left", **key)
            continue
        try:
            count = bench.places(2 * n * k)
            random = lambda rows: torch.randn(rows, k, device="cuda").to(torch.bfloat16) / k**0.5
            weights = [random(n) for _ in range(count)]
            input = random(m) * k**0.5
            output = torch.empty(m, n, dtype=torch.float32 if wide else torch.bfloat16, device="cuda")
            rotates = count * 2 * n * k >= 4 * bench.cache_bytes
        except RuntimeError as error:
            record.miss("PyTorch", error, **key)
            continue
        if library is not None:
            try:
                if not agrees(torch, library, m, n, k, wide, input, weights[0], output):
                    record.miss("cublasLt", "its product differs from torch's", **key)
                else:
                    times, tried, place = best_of_cublaslt(library, bench, [input], weights, [output], rotates, m, n, k, wide)
                    record.add("cublasLt", key, times, algorithms=tried, guess=place)
            except (CublasError, RuntimeError) as error:
                record.miss("cublasLt", error, **key)
        try:
            narrow = torch.empty(m, n, dtype=torch.bfloat16, device="cuda")
            calls = [lambda one=one: torch.matmul(input, one.t(), out=narrow) for one in weights]
            record.add("torch.matmul", key, bench.time(calls, rotates))
        except RuntimeError as error:
            record.miss("torch.matmul", error, **key)


if __name__ == "__main__":
    main()
