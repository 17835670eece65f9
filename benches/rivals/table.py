#!/usr/bin/env python3
"""Joins records of `gridpoint kernels --time --format json` with the rivals' records: a table in Markdown with ratios and targets.

    table.py OURS... [--rivals RIVAL...] [--step STEP] [--json FILE]

OURS are records of all cases, one a model; STEP is that of the decode step whose floor is a target. What was not measured is named and
judged by nobody; records of the simulated device are never judged.
"""

import argparse
import json
import math
import sys

from common import read_records

# Kernels that are held against plain traffic of their bytes, by words of their operation.
LIGHT = ("norm", "rope", "sample")
# Products that must read at the speed of memory when they have few rows.
HEAVY = ("gate-up product", "down product", "head")


class Target:
    """One line of the verdicts: a claim, its bounds, what was found."""

    def __init__(self, claim, asked, found=None, met=None, remark=""):
        self.claim, self.asked, self.found, self.met, self.remark = claim, asked, found, met, remark

    def object(self):
        return {"claim": self.claim, "asked": self.asked, "found": self.found, "met": self.met, "remark": self.remark}


def geometric_mean(values):
    return math.exp(sum(math.log(value) for value in values) / len(values)) if values else None


def number(value):
    if value is None:
        return ""
    if value == 0:
        return "0"
    digits = max(0, 3 - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def markdown(headings, rows):
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join("" if cell is None else str(cell) for cell in row) + " |" for row in rows]
    return lines


class Rivals:
    """Rivals' medians in microseconds by what they were timed on."""

    def __init__(self, records):
        self.times = {}
        self.missing = []
        self.versions = {}
        for record in records:
            self.versions.update(record.get("versions", {}))
            self.missing += record.get("missing", [])
            for rival in record.get("rivals", []):
                self.times.setdefault(self.key(rival), {})[rival["rival"]] = rival["us"]["median"]

    @staticmethod
    def key(rival):
        if "product" in rival:
            return ("product", *rival["product"])
        if "bytes" in rival:
            return ("bytes", *rival["bytes"])
        return ("case", rival["model"], rival["case"])

    def of(self, *key):
        return self.times.get(key, {})


def kernels(record):
    for case in record["cases"]:
        for kernel in case["kernels"]:
            yield case, kernel


def attention(case):
    """Microseconds of a layer's attention, all its launches, or None."""
    found = [kernel for kernel in case["kernels"] if kernel["attention"]]
    if not found:
        return None
    layers = max(kernel["launches"] for kernel in found)
    return sum(kernel["us"]["median"] * kernel["launches"] / layers for kernel in found)


def products(record, rivals):
    """Rows of (operation, m, n, k, kernel, us, share of read, TFLOP/s, cublasLt us, torch us, speed against the best), each size once."""
    rows = {}
    for case, kernel in kernels(record):
        if not kernel["product"] or case["padded_of"] or case["mix_of"]:
            continue
        m, n, k = kernel["product"]
        theirs = rivals.of("product", m, n, k)
        us = kernel["us"]["median"]
        cublas = theirs.get("cublasLt")
        row = (kernel["operation"], m, n, k, kernel["kernel"], us, kernel["share_of_read"], kernel["teraflops"], cublas,
               theirs.get("torch.matmul"), cublas / us if cublas else None)
        rows.setdefault((n, k, m), row)
    return [rows[key] for key in sorted(rows)]


def of_products(record, rivals):
    large, small, reads = [], [], []
    for operation, m, *_, share, _, _, _, speed in products(record, rivals):
        if speed is not None and m >= 512:
            large.append(speed)
        if speed is not None and m <= 64:
            small.append(speed)
        if m <= 16 and operation in HEAVY:
            reads.append(share)
    name = record["model"]
    both = lambda speeds: f"mean {number(geometric_mean(speeds))}, least {number(min(speeds))}" if speeds else None
    met = lambda speeds, mean, least: geometric_mean(speeds) >= mean and min(speeds) >= least if speeds else None
    return [
        Target(f"products, M >= 512, {name}: speed against cublasLt", "mean >= 0.98, none < 0.93", both(large), met(large, 0.98, 0.93)),
        Target(f"products, M <= 64, {name}: speed against cublasLt", "mean >= 1.15, none < 1.0", both(small), met(small, 1.15, 1.0)),
        Target(f"gate-up, down, head, M <= 16, {name}: share of the read bandwidth", ">= 0.88", number(min(reads)) if reads else None,
               min(reads) >= 0.88 if reads else None),
    ]


def of_attention(record, rivals):
    targets = []
    for case in record["cases"]:
        tokens, prefills, decodes = case["step"]
        us = attention(case)
        if us is None or case["padded_of"] or case["mix_of"]:
            continue
        theirs = rivals.of("case", record["model"], case["case"])
        best = min(theirs, key=theirs.get) if theirs else None
        remark = f"{best}: {number(theirs[best])} us, ours {number(us)} us, speed {number(theirs[best] / us)}" if best else ""
        share = min(kernel["share_of_read"] for kernel in case["kernels"] if kernel["attention"])
        if prefills == 0 and case["case"].startswith("decode-") and "-at-" in case["case"]:
            least = 0.88 if decodes > 1 else 0.80
            targets.append(Target(f"decode attention, {case['case']}, {record['model']}: share of the read bandwidth",
                                  f">= {least:.2f}", number(share), share >= least, remark))
        if decodes == 0 and tokens == 8192:
            flops = min(kernel["teraflops"] for kernel in case["kernels"] if kernel["attention"])
            speed = theirs[best] / us if best else None
            targets.append(Target(f"prefill attention, 8192 tokens, {record['model']}: speed against the best rival, TFLOP/s",
                                  ">= 0.95, >= 500", f"{number(speed) or 'no rival'}, {number(flops)}",
                                  speed >= 0.95 and flops >= 500 if best else None, remark))
    return targets


def of_mixes(record):
    cases = {case["case"]: case for case in record["cases"]}
    targets = []
    for case in record["cases"]:
        parts = [cases[name] for name in case["mix_of"] or [] if name in cases]
        if len(parts) < 2:
            continue
        whole, alone = attention(case), [attention(part) for part in parts]
        if whole is None or None in alone:
            continue
        ratio = whole / max(alone)
        steps = case["replay_us"]["median"] / max(part["replay_us"]["median"] for part in parts)
        targets.append(Target(f"{case['case']}, {record['model']}: attention against the longer part alone", "<= 1.10", number(ratio),
                              ratio <= 1.10, f"whole step {number(steps)}"))
    return targets


def of_light(record, rivals):
    """Norms, rope and sampling against plain traffic of their bytes."""
    worst = {}
    for case, kernel in kernels(record):
        tokens = case["step"][0]
        sampling = case["sampling"]
        if not any(word in kernel["operation"] for word in LIGHT) or tokens < 64 or case["padded_of"]:
            continue
        rows = case["step"][1] + case["step"][2]
        if kernel["operation"] == "sample" and rows < 64:
            continue
        sorts = kernel["operation"] == "sample" and (sampling["top_k"] > 0 or sampling["top_p"] < 1.0)
        claim = f"{kernel['operation']}{', top-k and top-p' if sorts else ''}"
        ratio = kernel["us"]["median"] / kernel["same_bytes_us"]["median"]
        if ratio > worst.get(claim, (0,))[0]:
            copy = rivals.of("bytes", kernel["read_bytes"], kernel["written_bytes"]).get("torch.copy_")
            remark = f"worst at {case['case']}" + (f"; torch.copy_ {number(copy)} us" if copy else "")
            worst[claim] = (ratio, 3.0 if sorts else 1.3, remark)
    return [
        Target(f"{claim}, T >= 64, {record['model']}: time against a copy of the same bytes", f"<= {most}", number(ratio), ratio <= most, remark)
        for claim, (ratio, most, remark) in worst.items()
    ]


def of_padding(record):
    cases = {case["case"]: case for case in record["cases"]}
    targets = []
    for case in record["cases"]:
        exact = cases.get(case["padded_of"])
        if exact is None:
            continue
        ratio = case["replay_us"]["median"] / exact["replay_us"]["median"]
        setting = lambda one: [(kernel["kernel"], kernel["operation"]) for kernel in one["kernels"]]
        same = setting(case) == setting(exact)
        half = 2 * case["step"][0] >= case["point"][0]
        if same:
            asked, met = "<= 1.05", ratio <= 1.05
        elif half:
            asked, met = "<= 1.10", ratio <= 1.10
        else:
            asked, met = "reported", None
        differing = [f"{mine} for {theirs}" for (mine, _), (theirs, _) in zip(setting(case), setting(exact)) if mine != theirs]
        remark = "the exact point's graph has the same kernels" if same else "its own graph has other kernels: " + ", ".join(sorted(set(differing)))
        targets.append(Target(f"padding tax, {case['case']}, {record['model']}: replay against the exact point's graph", asked, number(ratio), met, remark))
    return targets


def of_step(record):
    case = record["cases"][0]
    ratio = case["replay_over_floor"]
    claim = f"whole step, {record['model']}, {record['layers']} layers, step {case['step']}, {case['context']} of context: replay against the floor"
    return Target(claim, "<= 1.12", number(ratio), ratio <= 1.12,
                  f"replay {number(case['replay_us']['median'])} us, floor {number(case['floor_us'])} us, eager {number(case['eager_us']['median'])} us")


def verdicts(ours, rivals, step):
    targets = []
    for record in ours:
        targets += of_products(record, rivals) + of_attention(record, rivals) + of_mixes(record) + of_light(record, rivals) + of_padding(record)
    if step is not None:
        targets.append(of_step(step))
    if any(record["simulated"] for record in ours + ([step] if step else [])):
        for target in targets:
            target.met = None
    return targets


def document(ours, rivals, step, targets):
    lines = []
    if any(record["simulated"] for record in ours + ([step] if step else [])):
        lines += ["**SIMULATED DEVICE: these times are those of a program on a host's processor and say nothing of any GPU.**", ""]
    for record in ours[:1]:
        device, ceilings = record["device"], record["ceilings"]
        lines += [f"{device['name']}, compute capability {device['compute_capability']}, driver {device['driver']}, kernels by nvcc {device['nvcc']}; "
                  f"read {number(ceilings['read_gigabytes_per_second'])} GB/s, copy {number(ceilings['copy_gigabytes_per_second'])} GB/s; "
                  f"median of {record['repeats']}", ""]
    if rivals.versions:
        lines += ["Rivals: " + ", ".join(f"{name} {version}" for name, version in sorted(rivals.versions.items())), ""]
    judged = {True: "met", False: "missed", None: "not judged"}
    rows = [(target.claim, target.asked, target.found or "not measured", judged[target.met], target.remark) for target in targets]
    lines += ["## Targets", ""] + markdown(["claim", "asked", "found", "verdict", "remark"], rows)
    for record in ours:
        lines += ["", f"## {record['model']}, {record['layers']} layers", "", "### Products", ""]
        rows = [
            (operation, m, n, k, kernel, number(us), number(100 * share), number(flops), number(cublas), number(matmul), number(speed))
            for operation, m, n, k, kernel, us, share, flops, cublas, matmul, speed in products(record, rivals)
        ]
        lines += markdown(["for", "M", "N", "K", "kernel", "us", "% of read", "TFLOP/s", "cublasLt us", "torch us", "speed / cublasLt"], rows)
        lines += ["", "### Everything else", ""]
        rows = []
        for case, kernel in kernels(record):
            if kernel["product"]:
                continue
            theirs = rivals.of("case", record["model"], case["case"]) if kernel["attention"] else {}
            rival = ", ".join(f"{name} {number(us)} us" for name, us in sorted(theirs.items(), key=lambda one: one[1]))
            us = kernel["us"]["median"]
            rows.append((case["case"], kernel["operation"], kernel["kernel"], number(us), number(kernel["us"]["p10"]), number(kernel["us"]["p90"]),
                         number(100 * kernel["share_of_read"]), number(kernel["teraflops"]) if kernel["attention"] else "",
                         number(kernel["same_bytes_us"]["median"]), rival))
        lines += markdown(["case", "for", "kernel", "us", "10 %", "90 %", "% of read", "TFLOP/s", "same bytes us", "rivals"], rows)
        lines += ["", "### Whole steps", ""]
        rows = [
            (case["case"], case["point"], case["step"], number(case["replay_us"]["median"]), number(case["eager_us"]["median"]),
             number(case["parts_us"]), number(case["floor_us"]), number(case["replay_over_floor"]))
            for case in record["cases"]
        ]
        lines += markdown(["case", "point", "step", "replay us", "eager us", "parts us", "floor us", "replay / floor"], rows)
    if rivals.missing:
        lines += ["", "## Missing", ""]
        whys = {}
        for one in rivals.missing:
            whys.setdefault((one["rival"], one["why"]), 0)
            whys[one["rival"], one["why"]] += 1
        lines += [f"* {rival}: {why}" + (f" ({count} times)" if count > 1 else "") for (rival, why), count in whys.items()]
    return "\n".join(lines) + "\n"


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", nargs="+")
    parser.add_argument("--rivals", nargs="*", default=[])
    parser.add_argument("--step")
    parser.add_argument("--json", help="also writes the verdicts there")
    options = parser.parse_args(words)
    ours = read_records(options.ours)
    if not ours:
        print("table.py: no record of ours could be read", file=sys.stderr)
        return 1
    rivals = Rivals(read_records(options.rivals))
    steps = read_records([options.step] if options.step else [])
    step = steps[0] if steps else None
    targets = verdicts(ours, rivals, step)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"targets": [target.object() for target in targets], "missing": rivals.missing}, file)
    sys.stdout.write(document(ours, rivals, step, targets))
    return 0


if __name__ == "__main__":
    sys.exit(main())
