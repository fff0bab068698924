/** Name and version of this software, as peers see it. */
import { createRequire } from 'node:module';

const { version } = createRequire(import.meta.url)('../../package.json') as { version: string };

export const SOFTWARE = `galore-swarm ${version}`;
