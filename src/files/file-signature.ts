/** Tells whether files have changed without reading them. SHELL. */
import { statSync } from 'node:fs';

/** Differs once a file was replaced, written, made or removed; also for a change that alters no byte. */
export function signatureOf(paths: readonly string[]): string {
  return paths
    .map((path) => {
      const stats = statSync(path, { bigint: true, throwIfNoEntry: false });
      return stats === undefined ? 'none' : `${stats.dev}:${stats.ino}:${stats.mtimeNs}:${stats.size}`;
    })
    .join(' ');
}
