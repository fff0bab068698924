/** Every `galore` command and flag that is written down for people (README, docs/, examples/, deploy/) exists. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import type { Command } from 'commander';
import { registerEngineCommand } from '../src/cli/engine.ts';
import { registerInspectCommand } from '../src/cli/inspect.ts';
import { runCli } from '../src/cli/program.ts';
import { world } from './cli/fakes.ts';

const ROOT = join(import.meta.dirname, '..', '..');

/** Written down ahead of the program. Whoever adds one takes it off this list: the last test sees to that. */
const TO_COME: readonly string[] = ['coordinator --standby'];

/** A place in a file where the command is called. */
interface Call {
  readonly file: string;
  readonly text: string;
  readonly words: readonly string[];
}

async function theProgram(t: Parameters<typeof world>[0]): Promise<Command> {
  let program: Command | undefined;
  const take = (command: Command): void => void (program = command);
  await runCli(['--version'], world(t).context, [registerEngineCommand, registerInspectCommand, take]);
  return program!;
}

function filesOf(folder: string, accepts: RegExp): readonly string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .map((path) => join(folder, path))
    .filter((path) => accepts.test(path));
}

/** Code of a document: fenced blocks that are not of another language, and spans. */
function codeOf(markdown: string): readonly string[] {
  const fence = /^ *```(\w*)\n(.*?)^ *```/gms;
  const blocks = [...markdown.matchAll(fence)].filter(([, language]) => /^(sh|bash|)$/.test(language!));
  const spans = markdown.replace(fence, '').matchAll(/`([^`\n]+)`/g);
  return [...blocks.map(([, , code]) => code!), ...[...spans].map(([, code]) => code!)];
}

function callsIn(file: string, code: string): readonly Call[] {
  // To other programs the word is a name.
  const lines = code
    .replace(/\\\n\s*/g, ' ')
    .split('\n')
    .filter((line) => !/^\s*(kubectl|useradd|install) /.test(line));
  return lines.flatMap((line) => {
    const calls = line.matchAll(
      /(?:^|[\s"'`(=/])(?<!-n )(?:galore|galore\.js)(?= +[a-z-])((?:(?! #| \||[;&>)`]).)*)/g,
    );
    return [...calls].map(([, rest]) => ({
      file,
      text: `galore${rest}`,
      words: rest!.trim().split(/[\s=]+/),
    }));
  });
}

/** What of a call the program does not have, such as `trainer --colour`; null if it has all. */
function unknownIn(program: Command, { words }: Call): string | null {
  const path: string[] = [];
  let command = program;
  for (const word of words) {
    const next = command.commands.find((each) => each.name() === word);
    if (next === undefined) break;
    command = next;
    path.push(word);
  }
  const [next] = words.slice(path.length);
  if (command.commands.length > 0 && next !== undefined && /^[a-z]+$/.test(next)) {
    return [...path, next].join(' ');
  }
  const known = new Set(
    [...program.options, ...command.options].flatMap(({ long, short }) => [long, short]).concat('--help'),
  );
  const flag = words.find((word) => /^--[a-z][a-z-]*$/.test(word) && !known.has(word));
  return flag === undefined ? null : [...path, flag].join(' ');
}

const documents = [
  'README.md',
  'CONTRIBUTING.md',
  ...['docs', 'examples', 'deploy'].flatMap((f) => filesOf(f, /\.md$/)),
];
const programs = filesOf('deploy', /(\.sh|\.service|Dockerfile|\.ya?ml|galore-coordinator)$/).filter(
  (path) => !path.includes('/secrets/'),
);

/** In prose "galore" may be followed by anything. */
const calls: readonly Call[] = [
  ...documents.flatMap((file) =>
    codeOf(readFileSync(join(ROOT, file), 'utf8')).flatMap((code) => callsIn(file, code)),
  ),
  ...programs.flatMap((file) => callsIn(file, readFileSync(join(ROOT, file), 'utf8'))),
];

test('every command and flag that is written down exists', async (t) => {
  const program = await theProgram(t);
  t.true(calls.length > 150, `${calls.length} calls`);
  const unknown = calls.flatMap((call) => {
    const what = unknownIn(program, call);
    return what === null || TO_COME.includes(what) ? [] : [`${call.file}: ${what} (${call.text})`];
  });
  t.deepEqual(unknown, []);
});

test('what is written down ahead of the program is not there yet', async (t) => {
  const program = await theProgram(t);
  const there = TO_COME.filter(
    (what) => unknownIn(program, { file: '', text: '', words: what.split(' ') }) === null,
  );
  t.deepEqual(there, [], 'these can be taken off TO_COME');
});

test('a command or flag that does not exist is found', async (t) => {
  const program = await theProgram(t);
  const found = (code: string): readonly (string | null)[] =>
    callsIn('', code).map((call) => unknownIn(program, call));
  t.deepEqual(found('galore fly run.yaml'), ['fly']);
  t.deepEqual(found('$ galore trainer \\\n  ws://x --speed 3 # --fast'), ['trainer --speed']);
  t.deepEqual(found('npx galore token create x.json --role trainer | galore token grant x'), [
    null,
    'token grant',
  ]);
  t.deepEqual(found('node bin/galore.js resume runs/x --trainers=0 && galore train --stepz=3'), [
    null,
    'train --stepz',
  ]);
});
