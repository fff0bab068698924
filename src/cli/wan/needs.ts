/** Whether this machine can make shaped links. SHELL but for `missingNeeds`. */
import { execFile } from 'node:child_process';
import { OperatingError } from '../../errors.ts';

/** What is there. */
export interface Found {
  readonly platform: string;
  /** null: the system has no such numbers. */
  readonly userId: number | null;
  readonly programs: readonly string[];
}

const PROGRAMS = ['ip', 'tc'];

/** Everything that is missing, in one sentence; null: nothing is. Pure. */
export function missingNeeds({ platform, userId, programs }: Found): string | null {
  const needs = 'shaped links need Linux, root and the programs ip and tc';
  if (platform !== 'linux') return `${needs}; this is ${platform}`;
  const absent = PROGRAMS.filter((name) => !programs.includes(name));
  const faults = [
    ...(userId === 0 ? [] : [`this is user ${userId ?? '?'}: run it with sudo`]),
    ...(absent.length === 0
      ? []
      : [
          `${absent.join(' and ')} ${absent.length === 1 ? 'is' : 'are'} not in PATH: install iproute2 ` +
            '(apt-get install iproute2; on Fedora: dnf install iproute iproute-tc)',
        ]),
  ];
  return faults.length === 0 ? null : `${needs}; ${faults.join('; ')}`;
}

/** @throws OperatingError that names all that is missing */
export async function checkNeeds(): Promise<void> {
  const tried = await Promise.all(PROGRAMS.map(async (name) => ((await isThere(name)) ? [name] : [])));
  const userId = process.getuid?.() ?? null;
  const missing = missingNeeds({ platform: process.platform, userId, programs: tried.flat() });
  if (missing !== null) throw new OperatingError(missing);
}

function isThere(program: string): Promise<boolean> {
  return new Promise((resolve) => {
    execFile(program, ['-V'], (error) => resolve((error as NodeJS.ErrnoException | null)?.code !== 'ENOENT'));
  });
}
