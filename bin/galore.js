#!/usr/bin/env node
// The command `galore`. In a source checkout that was never built it builds first, and says so.
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const command = new URL('../dist/src/cli/index.js', import.meta.url);
const sources = new URL('../src/cli/index.ts', import.meta.url);
const setup = new URL('../scripts/setup.mjs', import.meta.url);

const isThere = (url) => existsSync(fileURLToPath(url));

try {
  if (!isThere(command)) {
    if (!isThere(sources) || !isThere(setup)) {
      throw new Error('this installation lacks its dist folder; reinstall the package galore-swarm');
    }
    process.stderr.write('galore: this checkout has no build yet; building it now\n');
    const { setUp } = await import(setup.href);
    await setUp({ engine: false });
  }
} catch (error) {
  process.stderr.write(`galore: ${error.message}\n`);
  process.exit(1);
}
const { keepYoungGenerationSmall } = await import(new URL('../dist/src/heap.js', import.meta.url).href);
keepYoungGenerationSmall(); // before the modules of the command fill it
await import(command.href);
