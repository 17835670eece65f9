"""What the rivals' scripts share: device time in the manner of `gridpoint kernels --time`, and the form of the records.

Only the standard library is imported here, so that the scripts can say in their record what is missing.
"""

import json
import sys

# As in src/timed: chains of about this many microseconds, and how often what is rotated through must fill the second cache.
CHAIN_MICROSECONDS = 100.0
MOST_CHAINED = 512
CACHE_FILLS = 4


def quantiles(samples):
    """The nearest ranks at a tenth, a half and nine tenths of samples in microseconds."""
    ordered = sorted(samples)
    rank = lambda tenths: ordered[max(1, -(-len(ordered) * tenths // 10)) - 1]
    return {"p10": rank(1), "median": rank(5), "p90": rank(9)}


def scaled(times, factor):
    return {name: value * factor for name, value in times.items()}


def read_records(paths):
    """The objects in JSON files; a file that cannot be read is named and left out."""
    records = []
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                records.append(json.load(file))
        except (OSError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
    return records


class Record:
    """Rivals' times and what was not there to be timed."""

    def __init__(self, kind):
        self.kind = kind
        self.rivals = []
        self.missing = []
        self.versions = {}

    def add(self, rival, key, times, **detail):
        """`key`: {"product": [m, n, k]}, {"case": name} or {"bytes": [read, written]}."""
        self.rivals.append({"rival": rival, **key, "us": times, **detail})

    def miss(self, rival, why, **key):
        self.missing.append({"rival": rival, **key, "why": " ".join(str(why).split())[:300]})

    def write(self, path):
        body = {"kind": self.kind, "versions": self.versions, "rivals": self.rivals, "missing": self.missing}
        text = json.dumps(body)
        if path == "-":
            print(text)
        else:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text + "\n")


class Bench:
    """Times callables on the current stream; each enqueues one launch on operands of its own."""

    def __init__(self, torch, repeats):
        self.torch = torch
        self.repeats = repeats
        self.device = torch.cuda.current_device()
        properties = torch.cuda.get_device_properties(self.device)
        self.cache_bytes = getattr(properties, "L2_cache_size", 0) or 64 << 20
        self.flushed = torch.ones(CACHE_FILLS * self.cache_bytes // 4, dtype=torch.float32, device="cuda")

    def flush(self):
        """Reads four times the cache and leaves nothing in it that has to be written back."""
        self.flushed.sum()

    def places(self, bytes_each, most=32):
        """How many sets of operands a rotation needs to be cold."""
        return int(min(most, max(1, -(-CACHE_FILLS * self.cache_bytes // max(1, bytes_each)))))

    def samples(self, repeats, before, timed, batch=32):
        """Microseconds of each run of `timed(index)`; without `before` the cache is flushed once a batch, so that the host is ahead."""
        event = lambda: self.torch.cuda.Event(enable_timing=True)
        pairs = [(event(), event()) for _ in range(min(batch, repeats))]
        samples = []
        while len(samples) < repeats:
            some = pairs[: repeats - len(samples)]
            if before is None:
                self.flush()
            for index, (start, end) in enumerate(some):
                if before is not None:
                    before()
                start.record()
                timed(len(samples) + index)
                end.record()
            self.torch.cuda.synchronize()
            samples.extend(start.elapsed_time(end) * 1e3 for start, end in some)
        return samples

    def time(self, calls, rotates, repeats=None):
        """Cold times of one of `calls`: by walking through them where that `rotates` the cache out, else by a flush before each."""
        torch, repeats = self.torch, repeats or self.repeats
        for call in calls:
            call()
        torch.cuda.synchronize()
        count = len(calls)
        if not rotates:
            return quantiles(self.samples(repeats, self.flush, lambda index: calls[index % count]()))
        walk = lambda _: [call() for call in calls]
        each = max(0.1, quantiles(self.samples(3, None, walk))["median"] / count)
        if each >= CHAIN_MICROSECONDS:
            return quantiles(self.samples(repeats, None, lambda index: calls[index % count]()))
        rounds = -(-CHAIN_MICROSECONDS // (each * count))
        chain = int(min(MOST_CHAINED, count * max(1, rounds)))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for index in range(chain):
                calls[index % count]()
        graph.replay()
        torch.cuda.synchronize()
        times = quantiles(self.samples(repeats, None, lambda _: graph.replay()))
        del graph
        return scaled(times, 1.0 / chain)


def open_torch(record):
    """torch with a CUDA device, or None and a line in the record."""
    try:
        import torch
    except ImportError as error:
        record.miss("PyTorch", error)
        return None
    if not torch.cuda.is_available():
        record.miss("PyTorch", "torch.cuda reports no device")
        return None
    record.versions.update(torch=torch.__version__, cuda=str(torch.version.cuda), device=torch.cuda.get_device_name())
    return torch


def arguments(description):
    import argparse

    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("ours", nargs="+", help="records of `gridpoint kernels --time --format json`, whose sizes are timed")
    parser.add_argument("--output", default="-", help="where the record goes [default: standard output]")
    parser.add_argument("--repeats", type=int, default=200, help="samples of every time")
    parser.add_argument("--seconds", type=float, default=420.0, help="no further size is begun after so many seconds")
    return parser.parse_args()
