"""An engine on CUDA's driver API alone: a matrix on the GPU, multiplied by a kernel in PTX that the driver compiles.

    POST /v1/embeddings {"input": TEXT}   answers with a row of integers, which a CPU computes equally
    POST /crash                           aborts

`--memory` MiB are allocated on the GPU beside the matrix. Needs the standard library and `libcuda.so.1`.
"""

import argparse
import ctypes
import json
import os
from http.server import BaseHTTPRequestHandler, HTTPServer

WIDTH = 64
BLOCK = 128
PTX = b"""
.version 6.4
.target sm_70
.address_size 64
.visible .entry multiply(.param .u64 left, .param .u64 right, .param .u64 product, .param .u32 width)
{
    .reg .pred %p<3>;
    .reg .f32 %f<4>;
    .reg .b32 %r<10>;
    .reg .b64 %rd<11>;
    ld.param.u64 %rd1, [left];
    ld.param.u64 %rd2, [right];
    ld.param.u64 %rd3, [product];
    ld.param.u32 %r1, [width];
    cvta.to.global.u64 %rd1, %rd1;
    cvta.to.global.u64 %rd2, %rd2;
    cvta.to.global.u64 %rd3, %rd3;
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.u32 %r5, %r2, %r3, %r4;
    mul.lo.u32 %r6, %r1, %r1;
    setp.ge.u32 %p1, %r5, %r6;
    @%p1 bra DONE;
    div.u32 %r7, %r5, %r1;
    rem.u32 %r8, %r5, %r1;
    mul.lo.u32 %r9, %r7, %r1;
    mul.wide.u32 %rd4, %r9, 4;
    add.u64 %rd5, %rd1, %rd4;
    mul.wide.u32 %rd6, %r8, 4;
    add.u64 %rd7, %rd2, %rd6;
    mul.wide.u32 %rd8, %r1, 4;
    mov.f32 %f1, 0f00000000;
    mov.u32 %r9, 0;
LOOP:
    setp.ge.u32 %p2, %r9, %r1;
    @%p2 bra STORE;
    ld.global.f32 %f2, [%rd5];
    ld.global.f32 %f3, [%rd7];
    fma.rn.f32 %f1, %f2, %f3, %f1;
    add.u64 %rd5, %rd5, 4;
    add.u64 %rd7, %rd7, %rd8;
    add.u32 %r9, %r9, 1;
    bra LOOP;
STORE:
    mul.wide.u32 %rd9, %r5, 4;
    add.u64 %rd10, %rd3, %rd9;
    st.global.f32 [%rd10], %f1;
DONE:
    ret;
}
\0"""


def weights():
    return [(row * 31 + column * 17) % 13 - 6 for row in range(WIDTH) for column in range(WIDTH)]


def tokens(text):
    """Each row is the text's bytes, shifted by the row's number; small integers, so that float32 is exact."""
    padded = text.encode()[:WIDTH].ljust(WIDTH, b"\0")
    return [(byte + row) % 7 for row in range(WIDTH) for byte in padded]


def expected(text):
    """The embedding, computed here."""
    left, right = tokens(text), weights()
    return [sum(left[k] * right[k * WIDTH + column] for k in range(WIDTH)) for column in range(WIDTH)]


class Gpu:
    """The first GPU that CUDA_VISIBLE_DEVICES shows. One thread: CUDA's current context is a thread's own."""

    def __init__(self, driver, memory):
        self._driver = driver
        device, context, module, self._kernel = ctypes.c_int(), *(ctypes.c_void_p() for _ in range(3))
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(PTX))
        self._call("cuModuleGetFunction", ctypes.byref(self._kernel), module, ctypes.c_char_p(b"multiply"))
        self._held = self._allocated(memory) if memory else None
        self._left, self._right, self._product = (self._allocated(WIDTH * WIDTH * 4) for _ in range(3))
        self._put(self._right, weights())

    def multiply(self, left):
        self._put(self._left, left)
        arguments = [self._left, self._right, self._product, ctypes.c_uint32(WIDTH)]
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(each) for each in arguments))
        grid = (WIDTH * WIDTH + BLOCK - 1) // BLOCK
        self._call("cuLaunchKernel", self._kernel, grid, 1, 1, BLOCK, 1, 1, 0, None, pointers, None)
        self._call("cuCtxSynchronize")
        product = (ctypes.c_float * (WIDTH * WIDTH))()
        self._call("cuMemcpyDtoH_v2", product, self._product, ctypes.c_size_t(ctypes.sizeof(product)))
        return list(product)

    def _allocated(self, size):
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address

    def _put(self, address, numbers):
        values = (ctypes.c_float * len(numbers))(*numbers)
        self._call("cuMemcpyHtoD_v2", address, values, ctypes.c_size_t(ctypes.sizeof(values)))

    def _call(self, function, *arguments):
        code = getattr(self._driver, function)(*arguments)
        if code != 0:
            raise SystemExit(f"{function} failed with CUDA error {code}")


class Handler(BaseHTTPRequestHandler):
    gpu = None

    def do_GET(self):
        self._answer({"status": "ok"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/crash":
            os.abort()
        product = self.gpu.multiply(tokens(json.loads(body)["input"]))
        self._answer({"embedding": [int(number) for number in product[:WIDTH]]})

    def _answer(self, answer):
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--memory", type=int, default=0)
    options = parser.parse_args()
    Handler.gpu = Gpu(ctypes.CDLL("libcuda.so.1"), options.memory << 20)
    print("the kernel is on the GPU", flush=True)  # noqa: T201 an engine's log
    HTTPServer((options.host, options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
