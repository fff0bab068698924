import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { DataError } from '../../src/errors.ts';
import { readJsonl, type BadLine, type JsonlRecord } from '../../src/files/jsonl.ts';
import { collect, temporaryFolder } from './temporary-folder.ts';

const read = (t: ExecutionContext, content: string): Promise<JsonlRecord[]> =>
  collect(readJsonl(join(temporaryFolder(t, { 'a.jsonl': content }), 'a.jsonl')));

test('a line is a text, or a prompt with its completion; blank lines and empty records are passed over', async (t) => {
  const lines = [
    '{"text": "one\\ntwo", "source": "x"}',
    '',
    '  \r',
    '{"prompt": "2+2=", "completion": "4"}\r',
    '{"text": ""}',
    '{"prompt": "?", "completion": ""}',
    '{"text": "last"}',
  ];
  const expected: JsonlRecord[] = [
    { type: 'text', text: 'one\ntwo' },
    { type: 'completion', prompt: '2+2=', completion: '4' },
    { type: 'text', text: 'last' },
  ];
  t.deepEqual(await read(t, lines.join('\n')), expected);
  t.deepEqual(await read(t, `\ufeff${lines.join('\n')}\n`), expected);
});

test('lines longer than a chunk of the file come back whole', async (t) => {
  const texts = ['é'.repeat(900_000), 'b', 'c'.repeat(2_500_000)];
  const records = await read(t, texts.map((text) => JSON.stringify({ text })).join('\n'));
  t.deepEqual(
    records.map((record) => record.type === 'text' && record.text),
    texts,
  );
});

test('a line that cannot be used is refused with its number, what it holds and what is allowed', async (t) => {
  const faults: readonly [line: string, message: RegExp][] = [
    [
      '{"text": ',
      /line 3 is not JSON \(.*\); wanted an object with "text", or with "prompt" and "completion"/,
    ],
    ['["a"]', /line 3 is a list; wanted/],
    ['"a"', /line 3 is a string; wanted/],
    ['null', /line 3 is null; wanted/],
    ['7', /line 3 is a number; wanted/],
    ['{}', /line 3 has no fields; wanted/],
    ['{"prompt": "a", "label": 1}', /line 3 has the fields "prompt", "label"; wanted/],
    ['{"text": 7}', /line 3: "text" is a number; it must be a text/],
    ['{"text": null}', /line 3: "text" is null; it must be a text/],
    ['{"prompt": "a", "completion": ["b"]}', /line 3: "completion" is a list; it must be a text/],
  ];
  for (const [line, message] of faults) {
    const error = await t.throwsAsync(read(t, `{"text":"a"}\n\n${line}\n{"text":"b"}`), {
      instanceOf: DataError,
    });
    t.regex(error.message, message);
  }
});

test('lines that cannot be used are left out where someone is told of them', async (t) => {
  const lines = ['{"text":"a"}', 'no json', '{"text":7}', '{"prompt":"b"}', '[]', '{"text":"c"}'];
  const path = join(temporaryFolder(t, { 'a.jsonl': `${lines.join('\n')}\n` }), 'a.jsonl');
  const bad: BadLine[] = [];
  const records = await collect(readJsonl(path, { onBadLine: (line) => bad.push(line) }));
  t.deepEqual(records, [
    { type: 'text', text: 'a' },
    { type: 'text', text: 'c' },
  ]);
  t.deepEqual(bad, [
    { line: 2, fault: 'no JSON' },
    { line: 3, fault: 'a "text" that is no text' },
    { line: 4, fault: 'no "text"' },
    { line: 5, fault: 'no JSON object' },
  ]);
});
