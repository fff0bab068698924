import test from 'ava';
import { Command } from 'commander';
import { registerEngineCommand } from '../../src/cli/engine.ts';

test('the engine command has install and check, each with flags and examples in its help', (t) => {
  const program = new Command('galore');
  registerEngineCommand(program);
  const engine = program.commands.find((command) => command.name() === 'engine');
  t.deepEqual(
    engine?.commands.map((command) => command.name()),
    ['install', 'check'],
  );
  for (const command of engine?.commands ?? []) {
    const own = command.name() === 'check' ? ['--device'] : [];
    t.deepEqual(
      command.options.map(({ long }) => long),
      [...own, '--gpu', '--json'],
    );
    let help = '';
    command.configureOutput({ writeOut: (text) => (help += text) });
    command.outputHelp();
    t.regex(help, new RegExp(`Examples:\\n {2}\\$ galore engine ${command.name()}\\n`));
  }
});
