"""Peers of bench/wire-loss.ts: the same model, data, batch and schedule in PyTorch, two processes over gloo, with the
compression that PyTorch users have: PowerSGD (DistributedDataParallel with powerSGD_hook, error feedback, warm start)
and DiLoCo (H local AdamW steps, outer Nesterov, arXiv 2311.08105). Beside them AdamW with nothing compressed.

    python loss_peers.py --tokens DIR --out FILE [--only NAME ...]

--tokens: the token cache of a run of bench/wire-loss.yaml (its data.cache_dir; the folder with header.json). --out: one JSON
line a run; runs that are in it are not repeated. Each peer is run at several learning rates with seed 0 and at the best
with seeds 1 and 2. bytesUp: what one process would send up a step to a server that sums, in f32, as ours is counted.
"""
import argparse
import json
import logging
import math
import os
import sys
import tempfile
import time
import warnings

logging.disable(logging.WARNING)
warnings.filterwarnings('ignore')

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM

STEPS, WARMUP, BATCH, SEQ, VOCAB, WORLD = 2400, 240, 8, 128, 2048, 2
EVERY, EVALUATED = 200, 320
MIN_RATIO = 0.1
LAYER_SCALE = 0.2  # as preset exact: the layers' share of the learning rate
RATES = (0.005, 0.01)  # and on by factors of two, until the next lower and the next higher one are worse
POWERSGD_START = 10  # steps that PyTorch's hook sends whole before it compresses
PEERS = {
    'AdamW': {},
    'PowerSGD, rank 3': {'rank': 3},
    'PowerSGD, rank 1': {'rank': 1},
    'DiLoCo, H = 32': {'local': 32},
    'DiLoCo, H = 64': {'local': 64},
    'DiLoCo, H = 256': {'local': 256},
}
OUTER_LR, OUTER_MOMENTUM = 0.7, 0.9


def rate_of(step: int) -> float:
    """Share of the learning rate in step `step`, from 0: warm-up, then half a cosine."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    progress = (step - WARMUP) / max(1, STEPS - WARMUP)
    return MIN_RATIO + (1 - MIN_RATIO) * 0.5 * (1 + math.cos(math.pi * progress))


def load(folder: str, part: str) -> np.ndarray:
    header = json.load(open(os.path.join(folder, 'header.json')))
    tokens = np.fromfile(os.path.join(folder, f'{part}.tokens'), dtype=np.uint16 if header['bytesPerToken'] == 2 else np.uint32)
    count = (len(tokens) - 1) // SEQ
    return np.stack([tokens[k * SEQ : (k + 1) * SEQ + 1].astype(np.int64) for k in range(count)])


def loss_of(model, sequences: np.ndarray) -> torch.Tensor:
    batch = torch.from_numpy(sequences)
    logits = model(input_ids=batch[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB), batch[:, 1:].reshape(-1))


def evaluate(model, held_out: np.ndarray) -> float:
    chosen = [i * len(held_out) // EVALUATED for i in range(EVALUATED)]
    with torch.no_grad():
        losses = [loss_of(model, held_out[chosen[i : i + 32]]).item() for i in range(0, EVALUATED, 32)]
    return sum(losses) / len(losses)


def train(me: int, options: dict, store: str, answer) -> None:
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=me, world_size=WORLD)
    torch.set_num_threads(1)
    torch.manual_seed(options['seed'])
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=128, intermediate_size=352, num_hidden_layers=3, num_attention_heads=4, vocab_size=VOCAB,
            max_position_embeddings=SEQ, tie_word_embeddings=False, attn_implementation='eager',
        )
    )
    layers = [p for name, p in model.named_parameters() if p.dim() == 2 and ('attn' in name or 'mlp' in name)]
    ids = {id(p) for p in layers}
    rest = [p for p in model.parameters() if id(p) not in ids]
    lr = options['lr']
    groups = [{'params': rest, 'top': lr}, {'params': layers, 'top': lr * LAYER_SCALE}]
    inner = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), weight_decay=0)
    peer = PEERS[options['peer']]
    parameters = sum(p.numel() for p in model.parameters())
    local = peer.get('local')
    network = model
    if local is None:
        # One bucket: over gloo the hook's collectives of two of them get mixed up.
        dist._DEFAULT_FIRST_BUCKET_BYTES = 64 << 20
        network = DistributedDataParallel(model, bucket_cap_mb=64)
        if 'rank' in peer:
            state = PowerSGDState(
                None, matrix_approximation_rank=peer['rank'], start_powerSGD_iter=POWERSGD_START, min_compression_rate=1,
                use_error_feedback=True, warm_start=True, random_seed=options['seed'],
            )
            network.register_comm_hook(state, powerSGD_hook)
    anchor = [p.detach().clone() for p in model.parameters()]
    momentum = [torch.zeros_like(p) for p in anchor]
    sequences, held_out = load(options['tokens'], 'train'), load(options['tokens'], 'validation')
    order = np.random.default_rng(options['seed']).permutation(len(sequences))
    curve, sent, started = [], 0, time.time()
    share = BATCH // WORLD
    for step in range(STEPS):
        for group in inner.param_groups:
            group['lr'] = group['top'] * rate_of(step)
        batch = order[np.arange(step * BATCH + me * share, step * BATCH + (me + 1) * share) % len(order)]
        loss = loss_of(network, sequences[batch])
        loss.backward()
        inner.step()
        inner.zero_grad(set_to_none=True)
        if local is None:
            compressed = 'rank' in peer and step >= POWERSGD_START
            numbers = sum(min(p.numel(), peer['rank'] * sum(p.shape)) if p.dim() == 2 else p.numel() for p in model.parameters()) if compressed else parameters
            sent += 4 * numbers
        elif (step + 1) % local == 0 or step + 1 == STEPS:
            for p, start, m in zip(model.parameters(), anchor, momentum):
                outer = start - p.detach()
                dist.all_reduce(outer)
                outer /= WORLD
                m.mul_(OUTER_MOMENTUM).add_(outer)
                start.sub_(OUTER_LR * (outer + OUTER_MOMENTUM * m))
                p.data.copy_(start)
            sent += 4 * parameters
        if (step + 1) % EVERY == 0 and me == 0:
            curve.append({'step': step + 1, 'loss': evaluate(model, held_out), 'bytesUp': sent, 'bytesDown': sent})
    if me == 0:
        answer.put({'curve': curve, 'bytesUp': sent / STEPS, 'parameters': parameters, 'seconds': time.time() - started})
    dist.barrier()
    dist.destroy_process_group()


def run(peer: str, lr: float, seed: int, tokens: str) -> dict:
    context = mp.get_context('spawn')
    answer = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        options = {'peer': peer, 'lr': lr, 'seed': seed, 'tokens': tokens}
        mp.spawn(train, args=(options, os.path.join(folder, 'store'), answer), nprocs=WORLD)
    result = answer.get()
    loss = result['curve'][-1]['loss']
    return {'method': peer, 'rate': lr, 'seed': seed, 'loss': loss if math.isfinite(loss) else None, **result}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--tokens', required=True)
    parser.add_argument('--out', required=True)
    parser.add_argument('--only', nargs='*', default=list(PEERS))
    options = parser.parse_args()
    done = [json.loads(line) for line in open(options.out)] if os.path.exists(options.out) else []

    def made(peer: str, lr: float, seed: int) -> dict:
        for entry in done:
            if (entry['method'], entry['rate'], entry['seed']) == (peer, lr, seed):
                return entry
        entry = run(peer, lr, seed, options.tokens)
        done.append(entry)
        with open(options.out, 'a') as file:
            file.write(json.dumps(entry) + '\n')
        print(f"{peer} lr {lr} seed {seed}: loss {entry['loss']} in {entry['seconds']:.0f} s", file=sys.stderr, flush=True)
        return entry

    print('| | lr | loss, mean of 3 seeds | spread | bytes up a step | fewer bytes than dense f32 |\n|---|---|---|---|---|---|')
    for peer in options.only:
        rates = list(RATES)
        while True:
            first = [made(peer, lr, 0) for lr in rates]
            best = min((entry for entry in first if entry['loss'] is not None), key=lambda entry: entry['loss'])
            if best['rate'] == rates[0]:
                rates.insert(0, rates[0] / 2)
            elif best['rate'] == rates[-1]:
                rates.append(rates[-1] * 2)
            else:
                break
        entries = [best] + [made(peer, best['rate'], seed) for seed in (1, 2)]
        losses = [entry['loss'] for entry in entries]
        dense = 4 * best['parameters'] / best['bytesUp']
        spread = f'{min(losses):.4f} to {max(losses):.4f}'
        print(f"| {peer} | {best['rate']} | {sum(losses) / len(losses):.4f} | {spread} | {best['bytesUp']:.0f} | {dense:.1f}x |", flush=True)


if __name__ == '__main__':
    main()
