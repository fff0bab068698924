"""The peer of `galore bench step`: a Hugging Face Llama with galore-torch's GaLoreAdamW, on random tokens.

    python torch_galore.py --dims 512,1376,8,8 --batch 2 --seq 256 --rank 128 [--bf16] [--threads N] [--steps N]

--dims: hidden, intermediate, heads, layers. With --steps N it times N steps, prints one JSON object and
ends. Without, it makes one untimed step, says so, and then, for each line on standard input that holds a
number N, times N steps and prints {"seconds": [...], "cpuSeconds": [...]}: so another program can take turns with it. Under
torchrun it is DistributedDataParallel over gloo; --batch is then the batch of each process.
The first bases are random ones instead of singular vectors: they are not timed, and take a minute.
"""
import argparse
import json
import logging
import os
import resource
import sys
import time
import warnings

logging.disable(logging.WARNING)
warnings.filterwarnings('ignore')

import torch
import torch.distributed as dist
from galore_torch import GaLoreAdamW
from galore_torch.galore_projector import GaLoreProjector
from transformers import LlamaConfig, LlamaForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument('--dims', required=True)
parser.add_argument('--vocab', type=int, default=32000)
parser.add_argument('--batch', type=int, required=True)
parser.add_argument('--seq', type=int, required=True)
parser.add_argument('--rank', type=int, required=True)
parser.add_argument('--gap', type=int, default=200)
parser.add_argument('--threads', type=int, default=0)
parser.add_argument('--bf16', action='store_true')
parser.add_argument('--steps', type=int, default=0)
options = parser.parse_args()

world = int(os.environ.get('WORLD_SIZE', '1'))
me = int(os.environ.get('RANK', '0'))
if world > 1:
    dist.init_process_group('gloo')
torch.set_num_threads(options.threads or max(1, (os.cpu_count() or 1) // world))
torch.manual_seed(0)
hidden, intermediate, heads, layers = map(int, options.dims.split(','))
model = LlamaForCausalLM(
    LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=options.vocab,
        max_position_embeddings=options.seq,
        tie_word_embeddings=False,
    )
)
projected = [p for name, p in model.named_parameters() if p.dim() == 2 and ('attn' in name or 'mlp' in name)]
ids = {id(p) for p in projected}
groups = [
    {'params': [p for p in model.parameters() if id(p) not in ids]},
    {'params': projected, 'rank': options.rank, 'update_proj_gap': options.gap, 'scale': 0.25, 'proj_type': 'std'},
]
optimizer = GaLoreAdamW(groups, lr=1e-3)
network = torch.nn.parallel.DistributedDataParallel(model) if world > 1 else model
generator = torch.Generator().manual_seed(me)


def random_basis(self, weights, rank, type):
    rows, columns = weights.shape
    size = rows if type == 'left' else columns
    basis = torch.linalg.qr(torch.randn(size, rank))[0]
    return basis if type == 'left' else basis.T.contiguous()


GaLoreProjector.get_orthogonal_matrix = random_basis


def step() -> tuple[float, float]:
    tokens = torch.randint(0, options.vocab, (options.batch, options.seq), generator=generator)
    start, cpu_start = time.perf_counter(), time.process_time()
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=options.bf16):
        loss = network(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start, time.process_time() - cpu_start


def say(**fields) -> None:
    if me == 0:
        print(json.dumps(fields), flush=True)


def timed(count: int) -> dict:
    steps = [step() for _ in range(count)]
    return {'seconds': [wall for wall, _ in steps], 'cpuSeconds': [cpu for _, cpu in steps]}


step()
step()
if options.steps > 0:
    times = timed(options.steps)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    say(**times, tokensPerStep=world * options.batch * options.seq, rssBytes=rss, torch=torch.__version__)
else:
    say(ready=True, torch=torch.__version__)
    for line in sys.stdin:
        say(**timed(int(line)))
if world > 1:
    dist.destroy_process_group()
