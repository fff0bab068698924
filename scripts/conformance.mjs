/** `node scripts/conformance.mjs`: writes the conformance vectors of docs/vectors/ anew from the built program. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT, setUp } from './setup.mjs';

await setUp();
const { conformanceFiles } = await import(join(ROOT, 'dist/test/protocol/conformance.js'));
const folder = join(ROOT, 'docs/vectors');
mkdirSync(folder, { recursive: true });
for (const [name, content] of conformanceFiles()) {
  writeFileSync(join(folder, name), content);
  console.log(`docs/vectors/${name}: ${content.length} bytes`);
}
