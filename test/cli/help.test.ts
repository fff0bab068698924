import test from 'ava';
import { runCli } from '../../src/cli/program.ts';
import { world } from './fakes.ts';

const COMMANDS: Readonly<Record<string, readonly RegExp[]>> = {
  train: [
    /<run\.yaml>/,
    /--trainers <k>/,
    /--steps <n>/,
    /--seed <n>/,
    /--dir <folder>/,
    /--set <field=value>/,
    /--stop-at <n>/,
    /--print-config/,
  ],
  coordinator: [/--insecure/, /<run\.yaml>/, /--trainers <k>/, /--set <field=value>/, /--stop-at <n>/],
  trainer: [
    /<url>/,
    /--id <name>/,
    /--run <name>/,
    /--token <token>/,
    /--token-file <file>/,
    /--ca <file>/,
    /--cert <file>/,
    /--key <file>/,
    /--threads <n>/,
    /--precision <p>/,
    /GALORE_TOKEN/,
  ],
  plan: [
    /<run\.yaml>/,
    /--bandwidth <rate>/,
    /--up <rate>/,
    /--down <rate>/,
    /--set <field=value>/,
    /--json/,
  ],
  resume: [/<dir>/, /--steps <n>/, /--trainers <k>/, /--set <field=value>/, /may change/],
  eval: [/<dir>/, /--data <path>/, /--tokenizer <path>/, /--json/],
  predict: [/<dir>/, /\[text\.\.\.\]/, /--file <path>/, /--tokenizer <path>/, /--seq-len <n>/, /--json/],
  export: [/<dir>/, /<out>/, /--dtype <type>/, /--step <n>/, /--max-shard-size <size>/, /5GB/, /--force/],
  replay: [/<dir>/, /--from <step>/, /--to <step>/, /--threads <n>/, /--json/],
  view: [/<dir>/, /--port <n>/, /Reads only/],
  chaos: [
    /\[run\.yaml\]/,
    /--seed <n>/,
    /--kills <k>/,
    /--runs <n>/,
    /--only <role>/,
    /--faults <list>/,
    /--dir <folder>/,
    /--json/,
  ],
  generate: [
    /<dir>/,
    /--prompt <text>/,
    /--tokenizer <path>/,
    /--max-tokens <n>/,
    /--temperature <t>/,
    /--top-k <k>/,
    /--top-p <p>/,
    /--seed <n>/,
  ],
};

test('galore --help names every command, shows examples and the exit codes', async (t) => {
  const { out, run } = world(t);
  t.is(await run('--help'), 0);
  for (const name of Object.keys(COMMANDS)) t.regex(out.text, new RegExp(`^ {2}${name} `, 'm'));
  t.regex(out.text, /Examples:\n {2}galore train/);
  t.regex(out.text, /130 interrupted twice/);
});

for (const [name, patterns] of Object.entries(COMMANDS)) {
  test(`galore ${name} --help has its arguments, options, --debug and examples`, async (t) => {
    const { out, run } = world(t);
    t.is(await run(name, '--help'), 0);
    for (const pattern of [...patterns, /--debug/, /Examples:\n {2}\S*\s?galore |Examples:\n {2}galore /]) {
      t.regex(out.text, pattern);
    }
    for (const line of out.text.split('\n')) t.true(line.length <= 110, line);
  });
}

test('--version prints name and version', async (t) => {
  const { out, run } = world(t);
  t.is(await run('--version'), 0);
  t.regex(out.text, /^galore \d+\.\d+\.\d+\n$/);
});

test('no command at all shows the help as an error', async (t) => {
  const { err, run } = world(t);
  t.is(await run(), 2);
  t.regex(err.text, /^Usage: galore/);
});

test('a misspelled command or option is bad usage, with a suggestion', async (t) => {
  const { err, run } = world(t);
  t.is(await run('tran', 'run.yaml'), 2);
  t.regex(err.text, /unknown command 'tran'\n\(Did you mean train\?\)/);
  t.is(await run('train', 'run.yaml', '--step', '3'), 2);
  t.regex(err.text, /unknown option '--step'\n\(Did you mean --steps\?\)/);
  t.is(await run('train'), 2);
  t.regex(err.text, /missing required argument 'run\.yaml'/);
});

test('commands of other parts can be added', async (t) => {
  const { context, out } = world(t);
  const code = await runCli(['hello'], context, [
    (program) => program.command('hello').action(() => void out.write('hi\n')),
  ]);
  t.is(code, 0);
  t.is(out.text, 'hi\n');
});
