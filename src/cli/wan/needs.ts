/** Whether this machine can make shaped links. SHELL but for `missingNeeds`. */
import { execFile } from 'node:child_process';
import { OperatingError } from '../../errors.ts';
import type { CommandLine } from './network.ts';

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

/** Runs one command of the network. @throws OperatingError with what it said */
export function runCommand(command: CommandLine): Promise<void> {
  const [file, ...args] = command as [string, ...string[]];
  return new Promise((resolve, reject) => {
    // A process group of its own: Ctrl-C must not stop what tidies up.
    const child = execFile(file, args, { detached: true } as object, (error, _, stderr) => {
      if (error === null) return resolve();
      const said = stderr.trim().replaceAll('\n', '; ') || error.message;
      const advice =
        'it needs the capabilities NET_ADMIN and SYS_ADMIN (a container: --privileged) and the kernel module sch_tbf';
      reject(new OperatingError(`${command.join(' ')} failed: ${said}; ${advice}`));
    });
    child.stdin?.end();
  });
}
