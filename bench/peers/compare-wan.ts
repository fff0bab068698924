/**
 * Two trainers of galore-swarm and two processes of PyTorch's DistributedDataParallel over equally slow links, in
 * turns in the same minutes. Needs what `galore bench wan` needs: Linux, root, ip and tc.
 *
 *     node dist/bench/peers/compare-wan.js [--python PATH] [--rounds 1] [--steps 8] [--ddp-steps 2]
 *         [--presets wan,balanced] [--links 100mbit,20mbit/100mbit] [--precision f32]
 *
 * Both run the 60m model on 2 x 256 tokens a process with half the cores each. PyTorch's processes are in a star of
 * namespaces like ours, whose middle forwards: what one sends goes up its own link and down the other's. Without
 * --python an environment is made in a temporary folder and removed at the end.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { table } from '../../src/cli/format.ts';
import { rate } from '../../src/cli/plan.ts';
import { runCommands, withNetwork } from '../../src/cli/wan/namespaces.ts';
import { checkNeeds } from '../../src/cli/wan/needs.ts';
import {
  forwardCommands,
  inside,
  shapeCommands,
  starNetwork,
  unshapeCommands,
  type LinkRates,
  type StarNetwork,
} from '../../src/cli/wan/network.ts';
import { GALORE, makeEnvironment, median, TORCH } from './environment.ts';

const PROCESSES = 2;
const THREADS = Math.max(1, Math.floor(availableParallelism() / PROCESSES));
const DIMS = '512,1376,8,8';
const [BATCH, SEQ, RANK] = [2, 256, 128];
const TOKENS = PROCESSES * BATCH * SEQ;

const { values: options } = parseArgs({
  options: {
    python: { type: 'string' },
    rounds: { type: 'string', default: '1' },
    steps: { type: 'string', default: '8' },
    'ddp-steps': { type: 'string', default: '2' },
    presets: { type: 'string', default: 'wan,balanced' },
    links: { type: 'string', default: '100mbit,20mbit/100mbit' },
    precision: { type: 'string', default: 'f32' },
  },
});

/** What is compared, in tokens a second. */
interface Speeds {
  readonly slow: number;
  readonly fast: number;
  readonly bytesUp: number;
  readonly bytesDown: number;
}

const ending = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => ending.abort());

await checkNeeds();
const scratch = await mkdtemp(join(tmpdir(), 'galore-peers-'));
try {
  const python = options.python ?? (await makeEnvironment(join(scratch, 'python')));
  for (const links of options.links.split(',')) await compare(links, python);
} finally {
  await rm(scratch, { recursive: true, force: true });
}

async function compare(links: string, python: string): Promise<void> {
  const [up, down = up] = links.split('/') as [string, string?];
  const rates = { up: rate(up), down: rate(down) };
  const presets = options.presets.split(',');
  const speeds = new Map<string, Speeds[]>([...presets, 'DDP'].map((name) => [name, []]));
  const network = starNetwork(`galore-ddp-${process.pid}`, PROCESSES);
  await withNetwork(network, rates, console.error, async () => {
    await runCommands(forwardCommands(network));
    const peers = joinedPeers(network, python);
    try {
      const lines = createInterface({ input: peers[0]!.stdout! })[Symbol.asyncIterator]();
      await answer(lines); // they are ready
      for (let round = 0; round < Number(options.rounds); round++) {
        for (const preset of presets) speeds.get(preset)!.push(await ours(preset, { up, down }));
        speeds.get('DDP')!.push(await theirs(network, rates, peers, lines));
      }
    } finally {
      for (const peer of peers) {
        peer.kill('SIGKILL');
        if (peer.exitCode === null && peer.signalCode === null) await once(peer, 'exit');
      }
    }
  });
  console.log(`60m, ${PROCESSES} x ${BATCH} x ${SEQ} tokens, ${options.precision}, ${up} up, ${down} down`);
  console.log(`${reportOf(speeds).join('\n')}\n`);
}

async function ours(preset: string, { up, down }: { up: string; down: string }): Promise<Speeds> {
  const flags = ['--preset', preset, '--up', up, '--down', down, '--steps', options.steps];
  const args = [...flags, '--precision', options.precision, '--threads', String(THREADS), '--json'];
  const child = spawn(process.execPath, [GALORE, 'bench', 'wan', ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    signal: ending.signal,
    killSignal: 'SIGTERM',
  });
  let text = '';
  child.stdout.on('data', (chunk) => (text += String(chunk)));
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0) throw new Error(`galore bench wan --preset ${preset} ended with code ${code}`);
  const result = JSON.parse(text.trim().split('\n').at(-1)!) as Record<string, number>;
  return {
    slow: result['tokensPerSecond']!,
    fast: result['unshapedTokensPerSecond']!,
    bytesUp: result['bytesUpPerStep']!,
    bytesDown: result['bytesDownPerStep']!,
  };
}

/** Over fast links first: PyTorch sends four bytes a parameter each way (a ring of two). */
async function theirs(
  network: StarNetwork,
  rates: LinkRates,
  peers: readonly ChildProcess[],
  lines: AsyncIterator<string>,
): Promise<Speeds> {
  const turn = async (): Promise<number> => {
    for (const peer of peers) peer.stdin!.write(`${options['ddp-steps']}\n`);
    return TOKENS / median((await answer(lines)).seconds!);
  };
  const before = await linkBytes(network);
  const fast = await turn();
  const after = await linkBytes(network);
  const perStep = (after - before) / Number(options['ddp-steps']);
  await runCommands(shapeCommands(network, rates));
  const slow = await turn();
  await runCommands(unshapeCommands(network));
  return { slow, fast, bytesUp: perStep, bytesDown: perStep };
}

async function answer(lines: AsyncIterator<string>): Promise<{ readonly seconds?: number[] }> {
  const { value, done } = await lines.next();
  if (done === true) throw new Error('PyTorch ended too early');
  return JSON.parse(value) as { seconds?: number[] };
}

/** What the first process has sent so far, headers included, by the kernel's count. */
async function linkBytes({ spokes: [spoke] }: StarNetwork): Promise<number> {
  const path = `/sys/class/net/${spoke!.device}/statistics/tx_bytes`;
  const [file, ...args] = [...inside(spoke!.namespace), 'cat', path];
  const child = spawn(file!, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.on('data', (chunk) => (text += String(chunk)));
  await once(child, 'close');
  return Number(text);
}

/** PyTorch's processes, joined by gloo, which wait for their turns. */
function joinedPeers({ spokes }: StarNetwork, python: string): ChildProcess[] {
  const flags = ['--dims', DIMS, '--batch', BATCH, '--seq', SEQ, '--rank', RANK].map(String);
  if (options.precision === 'bf16') flags.push('--bf16');
  return spokes.map(({ namespace, device }, rank) => {
    const [file, ...args] = [...inside(namespace), python, TORCH, ...flags];
    return spawn(file!, args, {
      stdio: ['pipe', 'pipe', 'inherit'],
      signal: ending.signal,
      killSignal: 'SIGKILL',
      env: {
        ...process.env,
        ...{ RANK: String(rank), LOCAL_RANK: String(rank), WORLD_SIZE: String(PROCESSES) },
        ...{ MASTER_ADDR: spokes[0]!.address, MASTER_PORT: '29511', GLOO_SOCKET_IFNAME: device },
        ...{ OMP_NUM_THREADS: String(THREADS) },
      },
    }).on('error', () => {}); // it ends, which is noticed
  });
}

function reportOf(speeds: ReadonlyMap<string, readonly Speeds[]>): string[] {
  const middle = (name: string, field: keyof Speeds): number =>
    median(speeds.get(name)!.map((each) => each[field]));
  const ratio = (name: string): number =>
    median(speeds.get(name)!.map(({ slow }, round) => slow / speeds.get('DDP')![round]!.slow));
  const rows = [...speeds.keys()].map((name) => [
    name,
    middle(name, 'slow').toFixed(0),
    middle(name, 'fast').toFixed(0),
    `${((100 * middle(name, 'slow')) / middle(name, 'fast')).toFixed(1)} %`,
    ratio(name).toFixed(2),
    (middle(name, 'bytesUp') / 1e6).toFixed(2),
    (middle(name, 'bytesDown') / 1e6).toFixed(2),
  ]);
  const head = ['', 'tokens/s', 'over fast links', 'share', 'by DDP', 'MB sent', 'MB received'];
  return table([head, ...rows]);
}
