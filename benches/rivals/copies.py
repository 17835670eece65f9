"""Times PyTorch's copy of as many bytes as the launches of a record without products and attention read and write."""

import time

from common import Bench, Record, arguments, open_torch, read_records


def sizes(records):
    """(bytes read, bytes written), each once."""
    found = set()
    for record in records:
        for case in record["cases"]:
            for kernel in case["kernels"]:
                if not kernel["product"] and not kernel["attention"]:
                    found.add((kernel["read_bytes"], kernel["written_bytes"]))
    return sorted(found)


def main():
    options = arguments(__doc__)
    record = Record("copies")
    torch = open_torch(record)
    if torch is not None:
        bench = Bench(torch, options.repeats)
        began = time.monotonic()
        for read, written in sizes(read_records(options.ours)):
            key = {"bytes": [read, written]}
            if time.monotonic() - began > options.seconds:
                record.miss("torch.copy_", "no time was left", **key)
                continue
            try:
                # A copy reads and writes alike: as many bytes in all.
                source = torch.ones(max(1, (read + written) // 2), dtype=torch.uint8, device="cuda")
                target = torch.empty_like(source)
                record.add("torch.copy_", key, bench.time([lambda: target.copy_(source)], False))
            except RuntimeError as error:
                record.miss("torch.copy_", error, **key)
    record.write(options.output)


if __name__ == "__main__":
    main()
