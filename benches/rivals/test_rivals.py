"""Tests of what needs no GPU: `python3 -m unittest discover benches/rivals`."""

import contextlib
import copy
import io
import json
import os
import sys
import tempfile
import unittest

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, FOLDER)
sys.dont_write_bytecode = True

import attention  # noqa: E402
import common  # noqa: E402
import copies  # noqa: E402
import cublaslt  # noqa: E402
import products  # noqa: E402
import table  # noqa: E402


def sample(name):
    with open(os.path.join(FOLDER, "samples", name), encoding="utf-8") as file:
        return json.load(file)


class Sizes(unittest.TestCase):
    def test_products_are_each_once_and_the_head_is_float32(self):
        sizes = products.sizes([sample("ours-simulated.json")])
        self.assertEqual(len({size[:3] for size in sizes}), len(sizes))
        self.assertIn((1, 384, 128, False), sizes)
        self.assertIn((1, 520, 128, True), sizes)

    def test_attention_takes_cases_whose_requests_are_alike(self):
        ours = dict(sample("ours-simulated.json"), model="llama-3-8b")
        for case in ours["cases"]:
            if case["case"] == "decode-2-at-130":
                case["context"] = 8191
        names = [case[1] for case in attention.cases([ours])]
        self.assertEqual(names, ["prefill-24", "decode-2-at-130", "mixed-prefill-24"])

    def test_copies_are_of_bytes_that_are_no_products(self):
        sizes = copies.sizes([sample("ours-simulated.json")])
        self.assertTrue(sizes and all(read > 0 for read, _ in sizes))


class Structs(unittest.TestCase):
    def test_a_product_sets_transposes_and_layouts_by_columns(self):
        calls = []

        class Library:
            def make(self, name, *arguments):
                calls.append((name, *arguments))
                return name

            def set(self, name, target, attribute, value):
                calls.append((name, attribute, value.value))

        cublaslt.Product(Library(), 3, 5, 8, True)
        self.assertEqual(calls[1:3], [("cublasLtMatmulDescSetAttribute", 3, 1), ("cublasLtMatmulDescSetAttribute", 4, 0)])
        layouts = [call[1:] for call in calls if call[0] == "cublasLtMatrixLayoutCreate"]
        # Type, rows, columns, leading dimension: [k, n] and [k, m] make [n, m].
        self.assertEqual(layouts, [(14, 8, 5, 8), (14, 8, 3, 8), (0, 5, 3, 5)])

    def test_prototypes_have_as_many_arguments_as_the_calls(self):
        self.assertEqual(len(cublaslt.PROTOTYPES["cublasLtMatmulAlgoGetHeuristic"]), 10)
        self.assertEqual(len(cublaslt.PROTOTYPES["cublasLtMatmul"]), 16)


class FakeTorch:
    """A device whose clock goes on by what is launched on it."""

    float32 = "float32"

    def __init__(self):
        torch = self
        self.now, self.recording = 0.0, None

        class Tensor:
            def sum(self):
                torch.launch(70.0)

        class Event:
            def __init__(self, enable_timing):
                pass

            def record(self):
                self.at = torch.now

            def elapsed_time(self, end):
                return (end.at - self.at) / 1e3

        class Graph:
            def replay(self):
                torch.now += self.length

        class Recording:
            def __init__(self, graph):
                self.graph = graph

            def __enter__(self):
                torch.recording = 0.0

            def __exit__(self, *_):
                self.graph.length, torch.recording = torch.recording, None

        class Cuda:
            current_device = staticmethod(lambda: 0)
            synchronize = staticmethod(lambda: None)
            get_device_properties = staticmethod(lambda _: type("Properties", (), {"L2_cache_size": 1 << 20}))

        Cuda.Event, Cuda.CUDAGraph, Cuda.graph = Event, Graph, Recording
        self.cuda = Cuda
        self.ones = lambda *_, **__: Tensor()

    def launch(self, microseconds):
        if self.recording is None:
            self.now += microseconds
        else:
            self.recording += microseconds


class Times(unittest.TestCase):
    def test_short_and_long_launches_have_their_own_time(self):
        torch = FakeTorch()
        bench = common.Bench(torch, 40)
        for each in (3.0, 250.0):
            for rotates in (False, True):
                times = bench.time([lambda: torch.launch(each)] * 3, rotates)
                for value in times.values():
                    self.assertAlmostEqual(value, each, places=6)
        self.assertEqual(bench.places(1 << 20), 4)
        self.assertEqual(bench.places(64 << 20), 1)

    def test_quantiles_are_nearest_ranks(self):
        self.assertEqual(common.quantiles(range(200, 0, -1)), {"p10": 20, "median": 100, "p90": 180})


class Table(unittest.TestCase):
    def run_table(self, ours, rivals=("rivals-made-up.json",)):
        with tempfile.TemporaryDirectory() as folder:
            path, verdicts = os.path.join(folder, "ours.json"), os.path.join(folder, "verdicts.json")
            with open(path, "w", encoding="utf-8") as file:
                json.dump(ours, file)
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                status = table.main([path, "--rivals", *(os.path.join(FOLDER, "samples", rival) for rival in rivals), "--step", path, "--json", verdicts])
            self.assertEqual(status, 0)
            with open(verdicts, encoding="utf-8") as file:
                return output.getvalue(), json.load(file)["targets"]

    def test_simulated_times_are_judged_by_nobody(self):
        text, targets = self.run_table(sample("ours-simulated.json"))
        self.assertTrue(text.startswith("**SIMULATED DEVICE"))
        self.assertTrue(all(target["met"] is None for target in targets))
        self.assertIn("FlashInfer: No module named 'flashinfer'", text)

    def test_targets_are_met_and_missed_by_their_bounds(self):
        ours = dict(sample("ours-simulated.json"), simulated=False)
        for case in ours["cases"]:
            for kernel in case["kernels"]:
                kernel["same_bytes_us"] = {"p10": 1, "median": 10, "p90": 20}
                kernel["us"] = {"p10": 1, "median": 12.5, "p90": 20}
                kernel["share_of_read"] = 0.9
            if case["case"] == "decode-1":
                next(kernel for kernel in case["kernels"] if kernel["product"])["us"]["median"] = 1.6
            if case["case"] == "padded-48-with-20":
                case["replay_us"]["median"] = 106
            if case["case"] == "exact-20":
                case["replay_us"]["median"] = 100
        ours["cases"][0]["replay_over_floor"] = 1.13

        def find(targets, start):
            found = [target for target in targets if target["claim"].startswith(start)]
            self.assertEqual(len(found), 1, (start, found))
            return found[0]

        _, targets = self.run_table(ours)
        small = find(targets, "products, M <= 64")
        # 2 us against 1.6.
        self.assertEqual((small["found"], small["met"]), ("mean 1.25, least 1.25", True))
        self.assertIsNone(find(targets, "products, M >= 512")["met"])
        self.assertTrue(find(targets, "gate-up, down, head")["met"])
        self.assertTrue(find(targets, "decode attention, decode-2-at-130")["met"])
        self.assertIn("SDPA cudnn: 6.00 us", find(targets, "decode attention, decode-2-at-130")["remark"])
        self.assertTrue(find(targets, "mixed-24-and-2")["met"])
        self.assertFalse(find(targets, "padding tax, padded-48-with-20")["met"])
        self.assertIsNone(find(targets, "padding tax, padded-20-with-3")["met"])
        self.assertFalse(find(targets, "whole step")["met"])

        slower = copy.deepcopy(ours)
        for case in slower["cases"]:
            if case["case"] == "decode-1":
                next(kernel for kernel in case["kernels"] if kernel["product"])["us"]["median"] = 1.9
        _, targets = self.run_table(slower)
        self.assertFalse(find(targets, "products, M <= 64")["met"])

    def test_without_rivals_ours_still_stand(self):
        text, targets = self.run_table(dict(sample("ours-simulated.json"), simulated=False), rivals=())
        self.assertIn("not measured", text)
        self.assertIsNone(targets[0]["met"])


if __name__ == "__main__":
    unittest.main()
