"""cublasLt through ctypes: products of bf16 matrices with every algorithm that its heuristics offer.

Numbers of enumerations and the layout of structs are those of cublasLt.h, cublas_api.h and library_types.h of CUDA 12 and 13.
"""

import ctypes
import glob
import os
import sys

CUDA_R_32F = 0
CUDA_R_16BF = 14
CUBLAS_COMPUTE_32F = 68
CUBLAS_OP_N = 0
CUBLAS_OP_T = 1
MATMUL_DESC_TRANSA = 3
MATMUL_DESC_TRANSB = 4
MATMUL_PREF_MAX_WORKSPACE_BYTES = 1
WORKSPACE_BYTES = 64 << 20
MOST_ALGORITHMS = 32


class Algorithm(ctypes.Structure):
    """cublasLtMatmulAlgo_t."""

    _fields_ = [("data", ctypes.c_uint64 * 8)]


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = [
        ("algorithm", Algorithm),
        ("workspace_bytes", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    ]


assert ctypes.sizeof(Algorithm) == 64 and ctypes.sizeof(Heuristic) == 96

_HANDLE = ctypes.c_void_p
_OUT = ctypes.POINTER(ctypes.c_void_p)
PROTOTYPES = {
    "cublasLtCreate": [_OUT],
    "cublasLtMatmulDescCreate": [_OUT, ctypes.c_int, ctypes.c_int],
    "cublasLtMatmulDescDestroy": [_HANDLE],
    "cublasLtMatmulDescSetAttribute": [_HANDLE, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t],
    "cublasLtMatrixLayoutCreate": [_OUT, ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64],
    "cublasLtMatrixLayoutDestroy": [_HANDLE],
    "cublasLtMatmulPreferenceCreate": [_OUT],
    "cublasLtMatmulPreferenceDestroy": [_HANDLE],
    "cublasLtMatmulPreferenceSetAttribute": [_HANDLE, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t],
    # handle, operation, layouts A B C D, preference, requested, results, returned
    "cublasLtMatmulAlgoGetHeuristic": [_HANDLE] * 7 + [ctypes.c_int, ctypes.POINTER(Heuristic), ctypes.POINTER(ctypes.c_int)],
    # handle, operation, alpha, A, layout, B, layout, beta, C, layout, D, layout, algorithm, workspace, bytes, stream
    "cublasLtMatmul": [_HANDLE] * 14 + [ctypes.c_size_t, _HANDLE],
}


class CublasError(Exception):
    """A call that did not answer CUBLAS_STATUS_SUCCESS, or a library that is not there."""


def candidates():
    """Names by which the library may be loaded: PyTorch brings its own, which is loaded with it."""
    yield from ("libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so")
    for folder in sys.path:
        yield from sorted(glob.glob(os.path.join(folder, "nvidia", "*", "lib", "libcublasLt.so.*")))
    yield from sorted(glob.glob("/usr/local/cuda*/lib64/libcublasLt.so.*"))


class CublasLt:
    """The library with a handle and a workspace."""

    def __init__(self, torch):
        self.torch = torch
        for name in candidates():
            try:
                self.library = ctypes.CDLL(name)
                self.name = name
                break
            except OSError:
                continue
        else:
            raise CublasError("libcublasLt was not found")
        for name, types in PROTOTYPES.items():
            function = getattr(self.library, name)
            function.argtypes, function.restype = types, ctypes.c_int
        self.library.cublasLtGetVersion.argtypes = []
        self.library.cublasLtGetVersion.restype = ctypes.c_size_t
        self.version = self.library.cublasLtGetVersion()
        self.handle = self.make("cublasLtCreate")
        self.workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device="cuda")
        self.one, self.zero = ctypes.c_float(1.0), ctypes.c_float(0.0)

    def call(self, name, *arguments):
        status = getattr(self.library, name)(*arguments)
        if status != 0:
            raise CublasError(f"{name} answered status {status}")

    def make(self, name, *arguments):
        made = ctypes.c_void_p()
        self.call(name, ctypes.byref(made), *arguments)
        return made

    def set(self, name, target, attribute, value):
        self.call(name, target, attribute, ctypes.byref(value), ctypes.sizeof(value))


class Product:
    """output [m, n] = input [m, k] x weights [n, k] transposed, all row-major, which to cublasLt are columns: the output's transpose is
    weights (transposed) times the input's transpose."""

    def __init__(self, library, m, n, k, float_output):
        self.library = library
        output = CUDA_R_32F if float_output else CUDA_R_16BF
        self.operation = library.make("cublasLtMatmulDescCreate", CUBLAS_COMPUTE_32F, CUDA_R_32F)
        attribute = "cublasLtMatmulDescSetAttribute"
        library.set(attribute, self.operation, MATMUL_DESC_TRANSA, ctypes.c_int32(CUBLAS_OP_T))
        library.set(attribute, self.operation, MATMUL_DESC_TRANSB, ctypes.c_int32(CUBLAS_OP_N))
        layout = "cublasLtMatrixLayoutCreate"
        self.weights = library.make(layout, CUDA_R_16BF, k, n, k)
        self.input = library.make(layout, CUDA_R_16BF, k, m, k)
        self.output = library.make(layout, output, n, m, n)

    def algorithms(self):
        """What the heuristics offer, best guess first."""
        library = self.library
        preference = library.make("cublasLtMatmulPreferenceCreate")
        most = ctypes.c_uint64(WORKSPACE_BYTES)
        library.set("cublasLtMatmulPreferenceSetAttribute", preference, MATMUL_PREF_MAX_WORKSPACE_BYTES, most)
        results = (Heuristic * MOST_ALGORITHMS)()
        returned = ctypes.c_int(0)
        try:
            library.call(
                "cublasLtMatmulAlgoGetHeuristic", library.handle, self.operation, self.weights, self.input, self.output,
                self.output, preference, MOST_ALGORITHMS, results, ctypes.byref(returned),
            )
        finally:
            library.call("cublasLtMatmulPreferenceDestroy", preference)
        return [result for result in results[: returned.value] if result.state == 0 and result.workspace_bytes <= WORKSPACE_BYTES]

    def launch(self, algorithm, input, weights, output):
        """Enqueues the product on torch's current stream. The arguments are tensors."""
        library = self.library
        library.call(
            "cublasLtMatmul", library.handle, self.operation, ctypes.byref(library.one), weights.data_ptr(), self.weights,
            input.data_ptr(), self.input, ctypes.byref(library.zero), output.data_ptr(), self.output, output.data_ptr(),
            self.output, ctypes.byref(algorithm.algorithm), library.workspace.data_ptr(), WORKSPACE_BYTES,
            library.torch.cuda.current_stream().cuda_stream,
        )

    def close(self):
        for layout in (self.weights, self.input, self.output):
            self.library.call("cublasLtMatrixLayoutDestroy", layout)
        self.library.call("cublasLtMatmulDescDestroy", self.operation)
