/** The programs an installation of the engine needs, and how to get them. */
import { runProgram } from './program.ts';

const INSTALL_NAMES = {
  python3: { apt: 'python3', dnf: 'python3', brew: 'brew install python' },
  pip: { apt: 'python3-pip', dnf: 'python3-pip', brew: 'brew install python' },
  'g++': { apt: 'g++', dnf: 'gcc-c++', brew: 'xcode-select --install' },
} as const;

export type Tool = keyof typeof INSTALL_NAMES;

const PROBES: Readonly<Record<Tool, readonly [string, ...string[]]>> = {
  python3: ['python3', '--version'],
  pip: ['python3', '-m', 'pip', '--version'],
  'g++': ['g++', '--version'],
};

/** True if the command runs and reports success. */
export type Probe = (command: string, args: readonly string[]) => Promise<boolean>;

/** One sentence that names the tools that are missing and the commands that install them, or undefined. */
export async function missingTools(
  tools: readonly Tool[],
  isRunning: Probe = runs,
): Promise<string | undefined> {
  const missing: Tool[] = [];
  for (const tool of tools) {
    const [command, ...args] = PROBES[tool];
    if (!(await isRunning(command, args))) missing.push(tool);
  }
  if (missing.length === 0) return undefined;
  const names = (manager: 'apt' | 'dnf') => missing.map((tool) => INSTALL_NAMES[tool][manager]).join(' ');
  const brew = [...new Set(missing.map((tool) => INSTALL_NAMES[tool].brew))].join(' && ');
  return (
    `${missing.join(', ')} ${missing.length > 1 ? 'are' : 'is'} missing, and the tensor engine cannot be installed ` +
    `without; install with: sudo apt-get install -y ${names('apt')} (Debian, Ubuntu), ` +
    `sudo dnf install -y ${names('dnf')} (Fedora), ${brew} (macOS)`
  );
}

async function runs(command: string, args: readonly string[]): Promise<boolean> {
  try {
    await runProgram(command, args);
    return true;
  } catch {
    return false;
  }
}
