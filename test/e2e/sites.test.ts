/** Trainers with data of their own: what they need, what comes of it, and what leaves them. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { byteTokenizer } from '../../src/files/tokenizer.ts';
import { capture, type Capture } from '../helpers/capture.ts';
import { Galore, galore, temporaryFolder, TestRun, tinyConfig } from '../helpers/galore.ts';
import { pairPaths, pem, pemPath } from '../helpers/tls.ts';
import { findLeaks, type SiteSecrets } from '../privacy/find-leaks.ts';

const WORDS = [
  'birch',
  'copper',
  'drizzle',
  'ember',
  'falcon',
  'granite',
  'harbour',
  'ivory',
  'juniper',
  'lantern',
];
const SITES = ['north', 'south', 'west'] as const;

interface SiteFile {
  readonly path: string;
  readonly secrets: SiteSecrets;
}

/** Prompts and completions of a site; no two sites and lines are alike. */
function siteFile(t: ExecutionContext, site: string, lines: number): SiteFile {
  const folder = temporaryFolder(t);
  const name = `ledger-of-${site}.jsonl`;
  const texts = Array.from({ length: lines }, (_, i) => {
    const word = (j: number): string => WORDS[(i * 7 + j * 3 + site.length * j) % WORDS.length]!;
    return {
      prompt: `${site} asks ${word(1)} ${word(2)} ${i}:`,
      completion: ` ${word(3)} ${word(4)} ${word(5)} ${word(6)}`,
    };
  });
  const path = join(folder, name);
  writeFileSync(path, texts.map((line) => JSON.stringify(line)).join('\n'));
  const all = texts.flatMap(({ prompt, completion }) => [prompt, completion]);
  const tokenSequences = all.map((text) => byteTokenizer().encode(text));
  return { path, secrets: { texts: all, tokenSequences, names: [name, folder] } };
}

function sitesConfig(more: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  return {
    ...tinyConfig('', {
      model: { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 },
      method: { name: 'galore', rank: 8, update_proj_gap: 3 },
      data: { local: true, validation_fraction: 0.2 },
      local_steps: { count: 2 },
      wire: { codec: 'int8' },
      batch_size: 4,
      evaluation: { every: 2 },
      steps: 6,
    }),
    ...more,
  };
}

async function coordinate(t: ExecutionContext, config: Record<string, unknown>) {
  const run = new TestRun(t, config);
  const command = new Galore(t, ['coordinator', run.configPath, '--dir', run.dir]);
  const [, url] = await command.printed(/listening on (wss?:\S+?\/);/);
  return { run, command, url: url! };
}

test.serial(
  'three sites train on files of their own; what leaves them holds nothing of these, and is told',
  async (t) => {
    const files = SITES.map((site, i) => siteFile(t, site, 60 - 20 * i));
    const { run, command, url } = await coordinate(
      t,
      sitesConfig({ coordinator: { port: 0, start_trainers: 3 } }),
    );
    const taps = await Promise.all(files.map(() => capture(t, url)));
    const [north, south, west] = SITES.map(
      (id, i) =>
        new Galore(t, [
          ...['trainer', taps[i]!.url, '--id', id, '--data', files[i]!.path, '--threads', '1'],
          ...(id === 'north' ? ['--audit'] : id === 'west' ? ['--share', 'counts'] : []),
        ]),
    );
    t.is(await command.exited, 0, command.output);
    for (const site of [north!, south!, west!]) t.is(await site.exited, 0, site.output);

    const { metrics } = run;
    t.true(metrics.at(-1)!.loss < metrics[0]!.loss - 0.5, metrics.map(({ loss }) => loss).join(' '));
    t.true(metrics.every(({ trainers }) => trainers === 3));
    const evaluations = run.evaluations as unknown as readonly { sites: Record<string, object> }[];
    t.deepEqual(Object.keys(evaluations.at(-1)!.sites), ['north', 'south'], 'west keeps its losses');

    for (const [i, tap] of taps.entries()) noLeaks(t, tap, files[i]!.secrets);
    t.regex(north!.output, /what has left this machine:\n {2}hello: 1 message/);
    t.regex(north!.output, /part of contribution: \d+ messages, [\d.]+ kB: compressed gradients/);
    t.notRegex(north!.output, /ledger-of/, 'what is printed for the audit is what was sent');
  },
);

test.serial('the same under TLS, where a name of the data in the id would have been found', async (t) => {
  const file = siteFile(t, 'north', 40);
  const tls = { ...pairPaths('server') };
  const coordinator = { port: 0, tls };
  const { command, url } = await coordinate(t, sitesConfig({ coordinator, steps: 2 }));
  const tap = await capture(t, url, { cert: pem('server'), key: pem('server-key'), ca: pem('ca') });
  // An id is sent: this one stands for a program that leaks.
  const site = new Galore(t, [
    ...['trainer', tap.url, '--id', 'asks.granite', '--data', file.path, '--threads', '1'],
    ...['--ca', pemPath('ca')],
  ]);
  t.is(await command.exited, 0, command.output);
  t.is(await site.exited, 0, site.output);
  noLeaks(t, tap, file.secrets);
  const planted = { texts: ['he asks.granite him'], tokenSequences: [], names: ['granite'] };
  t.true(findLeaks(tap.bytes(), planted).length > 0, 'the search finds what is there');
});

function noLeaks(t: ExecutionContext, tap: Capture, secrets: SiteSecrets): void {
  const bytes = tap.bytes();
  t.true(bytes.length > 100_000, `only ${bytes.length} bytes were captured`);
  t.deepEqual(findLeaks(bytes, secrets), []);
}

test.serial(
  'a trainer without data, and one with data the run has no use for, are told so and nothing is trained',
  async (t) => {
    const file = siteFile(t, 'north', 20);
    const { url } = await coordinate(t, sitesConfig());
    const without = await galore(t, 'trainer', url, '--id', 'a');
    t.is(without.code, 2, without.output);
    t.regex(
      without.output,
      /trains on the data of its trainers \(data\.local\): name yours with --data FILE/,
    );

    const bad = join(temporaryFolder(t), 'bad.jsonl');
    writeFileSync(bad, `${readFileSync(file.path, 'utf8')}\n{"text": 3}\n`);
    const malformed = await galore(t, 'trainer', url, '--id', 'b', '--data', bad);
    t.is(malformed.code, 2, malformed.output);
    t.regex(malformed.output, /bad\.jsonl, line 21: "text" is a number/);
  },
);
