/**
 * What a user can get wrong, by real processes: each mistake gets a message that names it, an exit code
 * of docs/cli.md, and costs nothing that was there before. A start that failed can be repeated.
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { gzipSync } from 'node:zlib';
import test, { type ExecutionContext } from 'ava';
import { WebSocket } from 'ws';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import { encodeEnvelope } from '../../src/protocol/envelope.ts';
import type { HelloMessage } from '../../src/protocol/messages.ts';
import { PROTOCOL_VERSIONS } from '../../src/protocol/version.ts';
import { Galore, TEST_TEXT, TestRun, galore, temporaryFolder, tinyConfig } from '../helpers/galore.ts';
import { galoreHere } from '../helpers/here.ts';
import { resizeDisk, smallDisk } from '../helpers/small-disk.ts';

const BAD_INPUT = 2;
const CANNOT_CONTINUE = 3;

type Config = Readonly<Record<string, unknown>>;

/** A configuration that is fine but for `more`. */
function configWith(more: Config): Record<string, unknown> {
  return tinyConfig(TEST_TEXT, { steps: 3, ...more });
}

let refusalCount = 0;

/**
 * Starting `config` ends with `code` and a message that matches each of `said`; no run directory is left.
 * In turn by `train` and by `coordinator`, which start a run in the same way; the latter in this process.
 */
async function refuses(
  t: ExecutionContext,
  config: Config,
  code: number,
  ...said: readonly (string | RegExp)[]
): Promise<void> {
  const run = new TestRun(t, config);
  const ended =
    refusalCount % 2 === 0
      ? await galore(t, ...run.trainArgs(1))
      : await galoreHere('coordinator', run.configPath, '--dir', run.dir);
  refusalCount += 1;
  t.is(ended.code, code, ended.output);
  says(t, ended.output, ...said);
  t.false(existsSync(run.dir), `${run.dir} was left behind`);
}

let stopped: string | undefined;
test.after.always(() => {
  if (stopped !== undefined) rmSync(stopped, { recursive: true, force: true });
});

/** A run of 3 steps that was stopped after 2: trained once, and copied for every test that asks. */
async function stoppedRun(t: ExecutionContext): Promise<TestRun> {
  if (stopped === undefined) {
    const run = await new TestRun(t, configWith({})).trainHere(1, '--stop-at', '2');
    stopped = mkdtempSync(join(tmpdir(), 'galore-test-'));
    cpSync(run.dir, stopped, { recursive: true });
  }
  const copy = new TestRun(t, configWith({}));
  cpSync(stopped, copy.dir, { recursive: true });
  return copy;
}

function says(t: ExecutionContext, output: string, ...said: readonly (string | RegExp)[]): void {
  t.notRegex(output, /unexpected|fault of galore|\n {4}at /);
  for (const part of said) {
    if (typeof part === 'string') t.true(output.includes(part), `${part}\nis not in\n${output}`);
    else t.regex(output, part);
  }
}

/** Every file below `folder` with the SHA-256 of its content. */
function contentOf(folder: string): Record<string, string> {
  return Object.fromEntries(
    readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map(({ parentPath, name }) => join(parentPath, name))
      .sort()
      .map((path) => [relative(folder, path), createHash('sha256').update(readFileSync(path)).digest('hex')]),
  );
}

/** A port of 127.0.0.1 that something else listens on. */
async function takePort(t: ExecutionContext): Promise<{ port: number; server: Server }> {
  const server = createServer().listen(0, '127.0.0.1');
  t.teardown(() => server.close());
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('a TCP port has a number');
  return { port: address.port, server };
}

/** A coordinator that waits for its trainer, and where. */
async function coordinatorOf(t: ExecutionContext, run: TestRun): Promise<{ command: Galore; url: string }> {
  const command = new Galore(t, ['coordinator', run.configPath, '--dir', run.dir]);
  const [, url] = await command.printed(/listening on (ws:\S+?\/);/);
  return { command, url: url! };
}

/** Says hello by hand; resolves to the close code and reason. */
async function closedAfter(
  url: string,
  more: Partial<HelloMessage>,
): Promise<[code: number, reason: string]> {
  const socket = new WebSocket(url, { perMessageDeflate: false });
  await once(socket, 'open');
  const none = new Uint8Array(0);
  socket.send(
    encodeEnvelope({
      kind: 'hello',
      protocolVersions: PROTOCOL_VERSIONS,
      trainerId: 'stranger',
      runName: '',
      token: '',
      software: 'test',
      runId: '',
      sequence: 0,
      digest: none,
      schemaHash: none,
      codecs: ['f32', 'bf16', 'int8', 'int4'],
      snapshot: null,
      ...more,
    }),
  );
  const [code, reason] = (await once(socket, 'close')) as [number, Buffer];
  return [code, reason.toString()];
}

/** A trainer joins and the run ends as if nothing had been. */
async function endsWell(t: ExecutionContext, url: string, command: Galore, run: TestRun): Promise<void> {
  const trainer = await galore(t, 'trainer', url, '--id', 'good', '--threads', '1', '--run', 'tiny');
  t.is(trainer.code, 0, trainer.output);
  t.is(await command.exited, 0, command.output);
  t.is((await run.inspect()).step, 3);
}

test.serial(
  'every fault of a configuration is told at once, with its line, value and what is allowed',
  async (t) => {
    const config = configWith({
      method: { name: 'galore', rank: 'many' },
      optimizer: { lr: -1 },
      wire: { codec: 'zip' },
      trainer: { micro_batch: 0 },
      sequence_length: 64,
      coordinator: { port: 70_000, heartbeat_interval_ms: 5000, heartbeat_timeout_ms: 1000 },
    });
    await refuses(
      t,
      config,
      BAD_INPUT,
      /has 7 faults:/,
      /line \d+: method\.rank is many; allowed: a number, or a share of the hidden size such as d\/8\n/,
      /line \d+: optimizer\.lr is -1; allowed: a number above 0\n/,
      /line \d+: wire\.codec is zip; allowed: one of f32, bf16, int8, int4\n/,
      /line \d+: trainer\.micro_batch is 0; allowed: /,
      /line \d+: unknown field sequence_length/,
      /line \d+: coordinator\.port is 70000; allowed: .*65535\n/,
      /line \d+: coordinator\.heartbeat_\w+ is \d+; .*heartbeat/,
    );
  },
);

test.serial(
  'a file that is no YAML is shown where it is broken, and one that is missing is named',
  async (t) => {
    const folder = temporaryFolder(t);
    const path = join(folder, 'broken.yaml');
    writeFileSync(path, 'name: tiny\nmodel: { hidden_size: 32\nsteps: 3\n');
    const broken = await galore(t, 'train', path, '--dir', join(folder, 'run'));
    t.is(broken.code, BAD_INPUT, broken.output);
    says(t, broken.output, `${path} is not valid YAML`, /line 3, column 1: /);
    const missing = await galore(t, 'train', join(folder, 'none.yaml'), '--dir', join(folder, 'run'));
    t.is(missing.code, BAD_INPUT, missing.output);
    says(t, missing.output, `cannot read ${join(folder, 'none.yaml')}: no such file`);
    t.deepEqual(readdirSync(folder), ['broken.yaml']);
  },
);

test.serial('data that does not exist or is empty is named with its field', async (t) => {
  const folder = temporaryFolder(t);
  const [missing, empty, emptyFolder] = ['none.txt', 'empty.txt', 'folder'].map((name) => join(folder, name));
  writeFileSync(empty!, '');
  mkdirSync(emptyFolder!);
  const refusesData = (path: string, ...said: (string | RegExp)[]): Promise<void> =>
    refuses(t, configWith({ data: { path } }), BAD_INPUT, 'data.path', ...said);
  await refusesData(missing!, `${missing} does not exist`, /give a text or JSONL file/);
  await refusesData(empty!, `${empty} is empty`);
  await refusesData(emptyFolder!, emptyFolder!, /no usable files.*wanted \.txt/);
});

test.serial('data that is no text is named with what it is instead', async (t) => {
  const folder = temporaryFolder(t);
  const cases: readonly [name: string, content: Uint8Array, said: RegExp][] = [
    [
      'zero.txt',
      Buffer.from(`${'words '.repeat(100)}\0more`),
      /is not text: it has a zero byte at offset 600/,
    ],
    ['latin.txt', Buffer.from('caf\u00e9 '.repeat(100), 'latin1'), /is not UTF-8 text: the byte at offset 3/],
    ['packed.txt', gzipSync('words '.repeat(100)), /is compressed \(gzip\): unpack it first/],
  ];
  for (const [name, content, said] of cases) {
    const path = join(folder, name);
    writeFileSync(path, content);
    await refuses(t, configWith({ data: { path } }), BAD_INPUT, path, said);
  }
});

test.serial('a text shorter than one sequence is named with both lengths', async (t) => {
  const path = join(temporaryFolder(t), 'short.txt');
  writeFileSync(path, 'too short');
  await refuses(
    t,
    configWith({ data: { path } }),
    BAD_INPUT,
    /the training text of \S+short\.txt has \d+ tokens; one sequence of seq_len 32 needs 33/,
  );
});

test.serial(
  "a tokenizer with more tokens than the model's vocabulary is refused with both numbers",
  async (t) => {
    const { model } = configWith({}) as { model: Config };
    await refuses(
      t,
      configWith({ model: { ...model, vocab_size: 100 } }),
      BAD_INPUT,
      /the tokenizer has 256 tokens and the model's vocabulary \(model\.vocab_size\) only 100.*at least 256/,
    );
  },
);

test.serial('a port in use is named, and the same command goes on once it is free', async (t) => {
  const { port, server } = await takePort(t);
  const run = new TestRun(t, configWith({ coordinator: { port } }));
  const failed = await galore(t, ...run.trainArgs(1));
  t.is(failed.code, CANNOT_CONTINUE, failed.output);
  says(
    t,
    failed.output,
    `cannot listen on 127.0.0.1:${port}`,
    /another program uses this port.*coordinator\.port/,
  );
  t.false(existsSync(run.dir));
  server.close();
  await once(server, 'close');
  await run.train(1);
  t.is((await run.inspect()).step, 3);
});

test.serial('a start that failed leaves a folder that was there before, and what is in it', async (t) => {
  const { port } = await takePort(t);
  const run = new TestRun(t, configWith({ coordinator: { port } }));
  mkdirSync(run.dir, { mode: 0o700 });
  const { ino } = statSync(run.dir);
  const empty = await galore(t, ...run.trainArgs(1));
  t.is(empty.code, CANNOT_CONTINUE, empty.output);
  t.is(statSync(run.dir).ino, ino, 'the folder of the user was removed');
  t.deepEqual(readdirSync(run.dir), []);

  writeFileSync(join(run.dir, 'thesis.tex'), 'years of work');
  const taken = await galore(t, ...run.trainArgs(1));
  t.is(taken.code, CANNOT_CONTINUE, taken.output);
  says(t, taken.output, `${run.dir} is not empty (thesis.tex is in it)`, /choose another --dir/);
  t.deepEqual(readdirSync(run.dir), ['thesis.tex']);
});

test.serial(
  'a trainer of another protocol version, model or run is closed with the reason, and the run goes on',
  async (t) => {
    const run = new TestRun(t, configWith({}));
    const { command, url } = await coordinatorOf(t, run);
    const [versionCode, version] = await closedAfter(url, { protocolVersions: [7, 8] });
    t.is(versionCode, CLOSE_CODES.PROTOCOL_VERSION.code);
    t.is(
      version,
      `this coordinator speaks protocol version ${PROTOCOL_VERSIONS.join(', ')}, the trainer 7, 8`,
    );
    const [schemaCode, schema] = await closedAfter(url, { schemaHash: new Uint8Array(32).fill(0xab) });
    t.is(schemaCode, CLOSE_CODES.SCHEMA_MISMATCH.code);
    t.regex(schema, /the trainer's model is not that of run "tiny": schema abababab instead of [0-9a-f]{8}/);
    const lost = await galore(t, 'trainer', url, '--id', 'lost', '--run', 'another');
    t.is(lost.code, CANNOT_CONTINUE, lost.output);
    says(t, lost.output, /this coordinator serves run "tiny", not "another"/);
    await endsWell(t, url, command, run);
  },
);

test.serial(
  'a directory that holds a run, finished, running or damaged, is not touched by a new one',
  async (t) => {
    const run = await stoppedRun(t);
    const before = contentOf(run.dir);
    const held = await galore(t, ...run.trainArgs(1));
    t.is(held.code, CANNOT_CONTINUE, held.output);
    says(
      t,
      held.output,
      `${run.dir} already holds run tiny at step 2`,
      `galore resume ${run.dir}`,
      /another --dir/,
    );
    t.deepEqual(contentOf(run.dir), before);

    const other = new TestRun(t, configWith({}));
    const { command } = await coordinatorOf(t, other);
    const running = await galore(t, 'resume', other.dir);
    t.is(running.code, CANNOT_CONTINUE, running.output);
    says(
      t,
      running.output,
      new RegExp(`${other.dir} is in use by process ${command.child.pid} .*stop it first`),
    );
    command.child.kill('SIGINT');
    t.is(await command.exited, 0, command.output);

    // Without what marks it, and without what a run that began also has.
    for (const name of ['run-id.json', 'metrics.jsonl', 'evaluations.jsonl']) rmSync(join(run.dir, name));
    const unmarked = contentOf(run.dir);
    const damaged = await galore(t, ...run.trainArgs(1));
    t.is(damaged.code, CANNOT_CONTINUE, damaged.output);
    says(t, damaged.output, `${run.dir} is damaged: it has no run-id.json`, /journal is not empty/);
    t.deepEqual(contentOf(run.dir), unmarked);
  },
);

test.serial(
  'a resume on a port in use, or from a damaged checkpoint, says so and loses nothing; then it goes on',
  async (t) => {
    const run = await stoppedRun(t);
    const { port } = await takePort(t);
    const stopped = contentOf(run.dir);
    const failed = await galore(t, 'resume', run.dir, '--set', `coordinator.port=${port}`);
    t.is(failed.code, CANNOT_CONTINUE, failed.output);
    says(t, failed.output, `cannot listen on 127.0.0.1:${port}`);
    t.deepEqual(contentOf(run.dir), stopped);

    const checkpoints = join(run.dir, 'checkpoints');
    rmSync(join(checkpoints, 'step-000000'), { recursive: true });
    t.deepEqual(readdirSync(checkpoints), ['step-000002']);
    const weights = join(checkpoints, 'step-000002', 'model.safetensors');
    const whole = readFileSync(weights);
    const flipped = Buffer.from(whole);
    flipped[flipped.length - 1]! ^= 1;
    writeFileSync(weights, flipped);
    const before = contentOf(run.dir);
    for (const args of [
      ['resume', run.dir],
      ['generate', run.dir, '--prompt', 'a', '--max-tokens', '1'],
    ]) {
      const { code, output } = await galore(t, ...args);
      t.is(code, CANNOT_CONTINUE, output);
      says(
        t,
        output,
        /step-000002 is damaged: model\.safetensors has SHA-256 [0-9a-f]{64}, the manifest says/,
      );
      t.deepEqual(contentOf(run.dir), before);
    }
    writeFileSync(weights, whole);
    await run.resume();
    t.is((await run.inspect()).step, 3);
  },
);

test.serial(
  'a journal damaged in the middle ends with file and place, unchanged; repaired it goes on',
  async (t) => {
    const config = configWith({ steps: 6 });
    const run = new TestRun(t, config);
    const command = new Galore(t, run.trainArgs(1));
    await command.printed(/step 3\/6/);
    command.child.kill('SIGKILL');
    await command.exited;
    const journal = join(run.dir, 'journal');
    const path = join(journal, readdirSync(journal)[0]!);
    const whole = readFileSync(path);
    const flipped = Buffer.from(whole);
    flipped[2000]! ^= 1;
    writeFileSync(path, flipped);
    const before = contentOf(run.dir);
    const { code, output } = await galore(t, 'resume', run.dir);
    t.is(code, CANNOT_CONTINUE, output);
    says(t, output, path, /damaged.*byte \d+|byte \d+.*damaged/);
    const { lock: _, ...files } = before;
    t.deepEqual(contentOf(run.dir), files);
    writeFileSync(path, whole);
    await run.resume('here');
    t.is((await run.inspect()).step, 6);
  },
);

test.serial('a training that diverges says so and what to change, and keeps its steps', async (t) => {
  const run = new TestRun(t, configWith({ optimizer: { lr: 1e30 } }));
  const { code, output } = await galore(t, ...run.trainArgs(1));
  t.is(code, CANNOT_CONTINUE, output);
  says(
    t,
    output,
    /error: no trainer is left \(.*number \d+ of \d+ is NaN: the training has diverged/,
    /start it anew with a smaller optimizer\.lr/,
    /1 of 3 steps are kept/,
  );
  t.is((await run.inspect()).step, 1);
});

test.serial(
  'a new run on a full disk leaves nothing behind, and the same command works when there is space',
  async (t) => {
    // Not enough for the run directory, for the first checkpoint, for the token cache.
    for (const [kilobytes, isCacheThere] of [
      [8, false],
      [60, false],
      [12, true],
    ] as const) {
      const disk = smallDisk(t, kilobytes);
      if (disk === null) return;
      const cache = { cache_dir: join(isCacheThere ? disk : temporaryFolder(t), 'cache') };
      const run = new TestRun(t, configWith({ data: { path: TEST_TEXT, format: 'text', ...cache } }));
      const args = ['train', run.configPath, '--dir', join(disk, 'runs', 'new'), '--trainers', '1'];
      const full = await galore(t, ...args);
      t.is(full.code, CANNOT_CONTINUE, full.output);
      says(
        t,
        full.output,
        /no space left on the disk \(ENOSPC\)|the disk is full; data\.cache_dir or GALORE_CACHE_DIR names another place/,
        disk,
      );
      t.deepEqual(Object.keys(contentOf(disk)), []);
      t.false(existsSync(join(disk, 'runs')), 'an empty folder was left');
      if (kilobytes !== 60) continue; // that the same command works then is the same for all three
      resizeDisk(disk, 8000);
      const { code, output } = await galoreHere(...args);
      t.is(code, 0, output);
    }
  },
);
