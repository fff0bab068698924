/** docs/errors.md lists exactly the codes in the source, with their classes and exit codes. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { exitCodeOf } from '../src/cli/exit-codes.ts';
import {
  CheckpointError,
  ConfigError,
  DataError,
  EngineError,
  NotFiniteError,
  OperatingError,
  ProtocolError,
  TensorShapeError,
  TrainerError,
} from '../src/errors.ts';

const root = join(import.meta.dirname, '..', '..');
const document = readFileSync(join(root, 'docs', 'errors.md'), 'utf8');

const errors = [
  new CheckpointError('path', 'message'),
  new ConfigError('message'),
  new DataError('path', 'message'),
  new EngineError('message'),
  new NotFiniteError('message'),
  new OperatingError('message'),
  new ProtocolError(4002, 'message'),
  new TensorShapeError('message'),
  new TrainerError('message'),
];

function codesIn(text: string): string[] {
  return [...text.matchAll(/'(ERR_GALORE_[A-Z_]+)'/g)].map(([, code]) => code!);
}

/** Every code that is written down in the source, sorted. */
function codesInSource(): string[] {
  const source = join(root, 'src');
  const files = readdirSync(source, { recursive: true, encoding: 'utf8' }).filter((name) =>
    name.endsWith('.ts'),
  );
  const codes = files.flatMap((name) => codesIn(readFileSync(join(source, name), 'utf8')));
  return [...new Set(codes)].sort();
}

test('docs/errors.md has a row and a section for every error code in the source, and no other', (t) => {
  const codes = codesInSource();
  t.true(codes.length > 0);
  const rows = [...document.matchAll(/^\| `(ERR_GALORE_\w+)` /gm)].map(([, code]) => code!);
  const sections = [...document.matchAll(/^## (ERR_GALORE_\w+)$/gm)].map(([, code]) => code!);
  t.deepEqual(rows.toSorted(), codes);
  t.deepEqual(sections, rows);
});

test('docs/errors.md gives every code its class and exit code', (t) => {
  t.deepEqual(
    errors.map(({ code }) => code).toSorted(),
    codesInSource(),
    'a code of the source is missing in this test',
  );
  for (const error of errors) {
    const row = new RegExp(`^\\| \`${error.code}\` +\\| (\\w+) +\\| (\\d) +\\|$`, 'm').exec(document);
    t.deepEqual(row?.slice(1), [error.name, String(exitCodeOf(error))], error.code);
  }
});
