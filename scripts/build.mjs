// Turns proto/galore.proto into code and compiles everything to dist/.
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';

const run = (command, args) => {
  const result = spawnSync(process.execPath, [command, ...args], { stdio: 'inherit' });
  if (result.status !== 0) process.exit(result.status ?? 1);
};

mkdirSync('proto/generated', { recursive: true });
run('node_modules/protobufjs-cli/bin/pbjs', [
  '-t',
  'static-module',
  '-w',
  'esm',
  '--dts',
  '-o',
  'proto/generated/messages.js',
  'proto/galore.proto',
]);
run('node_modules/typescript/bin/tsc', ['-p', '.']);
