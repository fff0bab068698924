"""The peer of compare-refresh.ts: torch.linalg.svd of one f32 matrix, which is what GaLore's own refresh calls.

    python torch_svd.py FILE ROWS COLS THREADS

FILE holds ROWS x COLS little-endian f32 numbers, row by row. After one untimed decomposition it prints its version,
then for each line on standard input it makes one and prints {"ms": ..., "cpuMs": ...}: wall clock and processor time.
"""
import json
import sys
import time

import torch

path, rows, cols, threads = sys.argv[1], *map(int, sys.argv[2:5])
torch.set_num_threads(threads)
with open(path, 'rb') as file:
    gradient = torch.frombuffer(bytearray(file.read()), dtype=torch.float32).reshape(rows, cols)
torch.linalg.svd(gradient, full_matrices=False)
print(json.dumps(torch.__version__), flush=True)
for _ in sys.stdin:
    start, cpu_start = time.perf_counter(), time.process_time()
    torch.linalg.svd(gradient, full_matrices=False)
    ms, cpu_ms = 1e3 * (time.perf_counter() - start), 1e3 * (time.process_time() - cpu_start)
    print(json.dumps({'ms': ms, 'cpuMs': cpu_ms}), flush=True)
