/** The certificates of test/vectors/tls; its README says what each is for. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { PemTexts } from '../../src/files/pem.ts';
import { ROOT } from './galore.ts';

/** Path of `NAME.pem`. */
export function pemPath(name: string): string {
  return join(ROOT, 'test', 'vectors', 'tls', `${name}.pem`);
}

/** Paths of a certificate and its key. */
export function pairPaths(name: string): { cert: string; key: string } {
  return { cert: pemPath(name), key: pemPath(`${name}-key`) };
}

export function pem(name: string): string {
  return readFileSync(pemPath(name), 'utf8');
}

/** A certificate and its key. */
export function pair(name: string): PemTexts {
  return { cert: pem(name), key: pem(`${name}-key`) };
}
