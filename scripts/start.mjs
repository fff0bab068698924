/** `npm start`: the set-up, then a small training run with two trainers. Arguments are passed on. */
import { setUp } from './setup.mjs';

try {
  await setUp();
  process.argv[1] = 'bin/galore.js'; // what the command calls itself when it prints commands to try
  process.argv.splice(2, 0, 'train', 'examples/sotu.yaml', '--trainers', '2'); // a later --trainers wins
  await import('../bin/galore.js');
} catch (error) {
  console.error(`start: ${error.message}`);
  process.exitCode = 1;
}
