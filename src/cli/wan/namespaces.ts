/** Runs the commands of a network, and makes one for as long as it is used. SHELL. */
import { execFile } from 'node:child_process';
import { OperatingError } from '../../errors.ts';
import {
  addNamespace,
  linkCommands,
  namespacesOf,
  removeNamespace,
  shapeCommands,
  unshapeCommands,
  type CommandLine,
  type LinkRates,
  type StarNetwork,
} from './network.ts';

const ADVICE =
  'it needs the capabilities NET_ADMIN and SYS_ADMIN (a container: --privileged) and the kernel module sch_tbf';

/** Runs them one after the other. @throws OperatingError with what the one that failed said */
export async function runCommands(commands: readonly CommandLine[]): Promise<void> {
  for (const [file, ...args] of commands) {
    await new Promise<void>((resolve, reject) => {
      // A process group of its own: Ctrl-C must not stop what tidies up.
      const options = { detached: true } as object;
      execFile(file!, args, options, (error, _, stderr) => {
        if (error === null) return resolve();
        const said = stderr.trim().replaceAll('\n', '; ') || error.message;
        reject(new OperatingError(`${[file, ...args].join(' ')} failed: ${said}; ${ADVICE}`));
      });
    });
  }
}

/**
 * Makes the network, unshaped, and removes it when `work` has ended in whatever way; the processes in it must have
 * ended by then. `onNotice` is told what could not be removed.
 * @throws OperatingError if the system cannot make or shape it, and what `work` throws
 */
export async function withNetwork<T>(
  network: StarNetwork,
  rates: LinkRates,
  onNotice: (text: string) => void,
  work: () => Promise<T>,
): Promise<T> {
  const made: string[] = [];
  try {
    for (const namespace of namespacesOf(network)) {
      await runCommands([addNamespace(namespace)]);
      made.push(namespace);
    }
    await runCommands(linkCommands(network));
    // So that a kernel that cannot shape says so before anything has begun.
    await runCommands(shapeCommands(network, rates));
    await runCommands(unshapeCommands(network));
    return await work();
  } finally {
    for (const namespace of made) {
      await runCommands([removeNamespace(namespace)]).catch((error: Error) => onNotice(error.message));
    }
  }
}
