#!/usr/bin/env python3
"""Writes the newest record's targets into README.md, between its markers.

    scripts/readme-table.py             writes
    scripts/readme-table.py --check     exit status 1 if README.md says anything else
"""

import argparse
import json
import pathlib
import sys

BEGIN = "<!-- measured: scripts/readme-table.py writes from here -->"
END = "<!-- measured: to here -->"
NOTHING = "Nothing has been measured on a GPU yet: no speed is stated. [docs/gpu-ledger.md](docs/gpu-ledger.md) lists the targets with their commands."


def simulated(value):
    """Whether any part of a record says that it was simulated."""
    if isinstance(value, dict):
        return value.get("simulated") is True or any(simulated(part) for part in value.values())
    return isinstance(value, list) and any(simulated(part) for part in value)


def newest(runs):
    """The newest folder with targets and its report, by date; None without any."""
    found = []
    for path in runs.glob("*/report.json"):
        report = json.loads(path.read_text(encoding="utf-8"))
        # The counts of the simulated device, which stand beside ncu's, have no such word: only times have.
        if report.get("targets") and not simulated(report):
            found.append((report["date"], path.parent, report))
    return max(found, key=lambda one: one[0])[1:] if found else None


def text(root):
    record = newest(root / "benches/runs")
    if record is None:
        return NOTHING
    folder, report = record
    place = folder.relative_to(root)
    lines = [f"Measured on {report['gpu']} ({report['date'][:10]}, revision {report['revision']}; record in [{place}]({place})):", ""]
    lines += ["| claim | asked | found | |", "|---|---|---|---|"]
    verdicts = {True: "met", False: "missed", None: "not judged"}
    for target in report["targets"]["targets"]:
        lines.append(f"| {target['claim']} | {target['asked']} | {target['found'] or 'not measured'} | {verdicts[target['met']]} |")
    return "\n".join(lines)


def replaced(readme, body):
    before, rest = readme.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    return f"{before}{BEGIN}\n{body}\n{END}{after}"


def main(words=None, root=pathlib.Path(__file__).resolve().parent.parent):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(words)
    path = root / "README.md"
    readme = path.read_text(encoding="utf-8")
    if BEGIN not in readme or END not in readme:
        print(f"readme-table.py: README.md lacks the line `{BEGIN}` or `{END}`", file=sys.stderr)
        return 1
    made = replaced(readme, text(root))
    if options.check:
        if made != readme:
            print("readme-table.py: README.md does not say what the newest record says; run scripts/readme-table.py", file=sys.stderr)
        return int(made != readme)
    path.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
