/**
 * Installs the tensor engine: TensorFlow's libraries and the addon that joins them to Node, in the cache of the
 * user, linked into the tfjs package. Every stage ends in a rename, so that an interrupted installation goes on
 * where it stopped; a lock makes two at once safe. docs/decisions/0001-engine.md explains the choices.
 *
 *     <cache>/engine/downloads/            wheels that arrived and were not unpacked yet
 *     <cache>/engine/libraries/<release>/  tensorflow/ (libraries, headers), nvidia/ (gpu), manifest.json
 *     <cache>/engine/<key>/                napi-v8/ (what tfjs loads), manifest.json
 *
 * The builds for CPU and GPU lie side by side; load.ts takes the one its device needs. The link in the tfjs package
 * is for programs that import tfjs by themselves: it leads to the CPU build once that is installed.
 */
import { createHash, randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, rm, stat, statfs, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { withLock } from '#scripts/lock';
import { replaceFolder } from '#scripts/stamp';
import { EngineError } from '../../errors.ts';
import { ADDON_FILES, addonSourcesHash, compileAddon, tfjsVersion } from './compile.ts';
import { fetchWheel, unpackWheel } from './fetch.ts';
import { filesUnder, findDamage, writeManifest, type Thoroughness } from './manifest.ts';
import { isOccupied, isPlaced, place } from './place.ts';
import { thisHost, unsupportedPlatform, type Host } from './platform.ts';
import { missingTools, type Tool } from './prerequisites.ts';
import type { OnEngineProgress } from './progress.ts';
import {
  LIBRARY_FILES,
  RELEASES,
  fingerprint,
  libraryName,
  wheelsOf,
  type EngineRelease,
  type EngineVariant,
  type Wheel,
} from './release.ts';
import { needsLink, tfjsPackageDir } from './tfjs-package.ts';

/** How the folders of work in progress are called. */
const SCRATCH = 'staging-';

/** What an installation does outside its cache; a test puts its own in place. */
export interface InstallSteps {
  readonly releases: Readonly<Record<EngineVariant, EngineRelease>>;
  readonly host: Host;
  readonly missingTools: typeof missingTools;
  readonly fetchWheel: typeof fetchWheel;
  readonly unpackWheel: typeof unpackWheel;
  readonly compileAddon: typeof compileAddon;
}

export interface EngineOptions {
  /** The cache folder of the user (src/config/environment.ts). */
  readonly cacheDir: string;
  /** Default: cpu. */
  readonly variant?: EngineVariant;
  /** full: the content of the cache is checked too, which takes seconds. Default: quick. */
  readonly thoroughness?: Thoroughness;
  readonly onProgress?: OnEngineProgress;
  /** The tfjs package to serve. Default: the one this installation of galore-swarm uses. */
  readonly packageDir?: string;
  readonly steps?: Partial<InstallSteps>;
}

export interface InstalledEngine {
  readonly variant: EngineVariant;
  readonly tensorflowVersion: string;
  readonly tfjsVersion: string;
  /** The folder of the addon. */
  readonly folder: string;
  /** False if everything was in place before. */
  readonly isChanged: boolean;
}

/** The paths and choices of one installation. */
interface Plan {
  readonly root: string;
  readonly release: EngineRelease;
  readonly packageDir: string;
  readonly tfjsVersion: string;
  readonly libraryDir: string;
  readonly engineDir: string;
  readonly thoroughness: Thoroughness;
  readonly onProgress: OnEngineProgress;
  readonly steps: InstallSteps;
}

/** What of a plan is left to do, with the reason where something was there and is damaged. */
interface Work {
  readonly library: string | undefined;
  readonly addon: string | undefined;
  readonly isPlaced: boolean;
}

/**
 * Makes sure the engine is installed, whole and linked. Takes milliseconds if it is.
 * @throws EngineError with one sentence that says what is missing or went wrong.
 */
export async function ensureEngine(options: EngineOptions): Promise<InstalledEngine> {
  const plan = makePlan(options);
  const outcome = {
    variant: plan.release.variant,
    tensorflowVersion: plan.release.version,
    tfjsVersion: plan.tfjsVersion,
    folder: join(plan.engineDir, 'napi-v8'),
  };
  const isAtHand = isNothing(await findWork(plan));
  if (!isAtHand) {
    const unsupported = unsupportedPlatform(plan.steps.host);
    if (unsupported) throw new EngineError(unsupported);
    const onWait = (holder: string) => {
      plan.onProgress({ message: `waiting for ${holder}, which is installing the engine` });
    };
    await withLock(join(plan.root, 'lock'), () => install(plan), { onWait });
  }
  return { ...outcome, isChanged: !isAtHand };
}

/** Whether a build is in the cache, whole as far as a quick look can tell; whether it is linked does not count. */
export async function isEngineInstalled(options: EngineOptions, variant: EngineVariant): Promise<boolean> {
  const { library, addon } = await findWork(makePlan({ ...options, variant, thoroughness: 'quick' }));
  return library === undefined && addon === undefined;
}

function makePlan(options: EngineOptions): Plan {
  const steps: InstallSteps = {
    releases: RELEASES,
    host: options.steps?.host ?? thisHost(),
    missingTools,
    fetchWheel,
    unpackWheel,
    compileAddon,
    ...options.steps,
  };
  const root = join(options.cacheDir, 'engine');
  const release = steps.releases[options.variant ?? 'cpu'];
  const packageDir = options.packageDir ?? tfjsPackageDir();
  return {
    root,
    release,
    packageDir,
    tfjsVersion: tfjsVersion(packageDir),
    libraryDir: join(root, 'libraries', libraryName(release)),
    engineDir: join(root, engineKey(release, packageDir, steps.host)),
    thoroughness: options.thoroughness ?? 'quick',
    onProgress: options.onProgress ?? (() => undefined),
    steps,
  };
}

/** Names everything the compiled addon depends on: two engines with one key are the same. */
function engineKey(release: EngineRelease, packageDir: string, host: Host): string {
  const system = `${host.platform}-${host.arch}-glibc${host.glibc ?? ''}`;
  const sources = `${fingerprint(release)}\n${addonSourcesHash(packageDir)}`;
  const hash = createHash('sha256').update(sources).digest('hex').slice(0, 12);
  return `${release.variant}-${release.version}-tfjs-${tfjsVersion(packageDir)}-${system}-${hash}`;
}

async function findWork(plan: Plan): Promise<Work> {
  const [library, addon, placed] = await Promise.all([
    findDamage(plan.libraryDir, plan.thoroughness),
    findDamage(plan.engineDir, plan.thoroughness),
    isLinked(plan),
  ]);
  return { library, addon, isPlaced: placed };
}

function isLinked({ packageDir, engineDir, release }: Plan): boolean | Promise<boolean> {
  if (!needsLink(packageDir)) return true;
  return release.variant === 'cpu'
    ? isPlaced(packageDir, join(engineDir, 'napi-v8'))
    : isOccupied(packageDir);
}

function isNothing(work: Work): boolean {
  return !work.library && !work.addon && work.isPlaced;
}

/** Does what is left to do. The caller holds the lock, so what another process has done meanwhile is seen. */
async function install(plan: Plan): Promise<void> {
  await removeLeftovers(plan.root);
  const work = await findWork(plan);
  if (isNothing(work)) return;
  const tools: Tool[] = [];
  if (work.library) tools.push('python3', 'pip');
  if (work.addon) tools.push('g++');
  const missing = await plan.steps.missingTools(tools);
  if (missing) throw new EngineError(missing);
  if (work.library) await installLibrary(plan, work.library);
  if (work.addon) await installAddon(plan, work.addon);
  if (!work.isPlaced) await place(plan.packageDir, join(plan.engineDir, 'napi-v8'));
  plan.onProgress({ message: `TensorFlow ${plan.release.version} (${plan.release.variant}) is in place` });
}

async function installLibrary(plan: Plan, reason: string): Promise<void> {
  const { release, root, steps } = plan;
  explain(plan, plan.libraryDir, 'the TensorFlow libraries', reason);
  const downloads = join(root, 'downloads');
  await mkdir(downloads, { recursive: true });
  await mustHaveSpace(plan, downloads);
  const wheels = await fetchWheels(plan, downloads);
  await withScratch(plan, async (scratch) => {
    const fresh = join(scratch, 'library');
    await mkdir(fresh);
    plan.onProgress({ message: `unpacking ${contentOf(release)}` });
    for (const wheel of wheels) await steps.unpackWheel(wheel, fresh);
    await writeManifest(fresh, await libraryFiles(fresh));
    replaceFolder(fresh, plan.libraryDir);
  });
  await rm(downloads, { recursive: true, force: true });
}

/** Fetches what is not there yet of the wheels of a release, one after the other. */
async function fetchWheels({ release, steps, onProgress }: Plan, downloads: string): Promise<string[]> {
  const all = wheelsOf(release);
  const totalBytes = bytesOf(all);
  const message = `downloading ${contentOf(release)} (${Math.round(totalBytes / 1e6)} MB, once per user)`;
  onProgress({ message, share: 0 });
  const paths: string[] = [];
  let doneBytes = 0;
  for (const wheel of all) {
    const onShare = (share: number): void =>
      onProgress({ message, share: (doneBytes + share * wheel.bytes) / totalBytes });
    paths.push(await steps.fetchWheel(wheel, downloads, onShare));
    doneBytes += wheel.bytes;
  }
  onProgress({ message, share: 1 });
  return paths;
}

function contentOf({ version, companions }: EngineRelease): string {
  return companions.length > 0 ? `TensorFlow ${version} with NVIDIA’s libraries` : `TensorFlow ${version}`;
}

function bytesOf(wheels: readonly Wheel[]): number {
  return wheels.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** The libraries; and of NVIDIA's folders everything but headers. */
async function libraryFiles(folder: string): Promise<string[]> {
  const nvidia = await filesUnder(join(folder, 'nvidia'));
  return [
    ...LIBRARY_FILES.map((name) => `tensorflow/${name}`),
    ...nvidia.filter((path) => !path.includes('/include/')).map((path) => `nvidia/${path}`),
  ];
}

async function installAddon(plan: Plan, reason: string): Promise<void> {
  explain(plan, plan.engineDir, 'the addon', reason);
  plan.onProgress({ message: 'compiling the addon (about 10 s)' });
  await withScratch(plan, async (fresh) => {
    const folder = join(fresh, 'napi-v8');
    await mkdir(folder);
    await plan.steps.compileAddon(plan.packageDir, join(plan.libraryDir, 'tensorflow'), folder);
    if (plan.release.companions.length > 0) {
      // The CUDA build looks for NVIDIA's libraries in ../nvidia of the folder it is loaded from.
      await symlink(join('../libraries', libraryName(plan.release), 'nvidia'), join(fresh, 'nvidia'));
    }
    await writeManifest(
      fresh,
      ADDON_FILES.map((name) => `napi-v8/${name}`),
    );
    replaceFolder(fresh, plan.engineDir);
  });
}

/** A folder for work in progress, beside the engines so that relative links hold and a rename moves it there. */
async function withScratch(plan: Plan, action: (folder: string) => Promise<void>): Promise<void> {
  const folder = join(plan.root, `${SCRATCH}${randomUUID()}`);
  await mkdir(folder);
  try {
    await action(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Says that something is made again because it is damaged; a first installation needs no explanation. */
function explain(plan: Plan, folder: string, what: string, reason: string): void {
  if (existsSync(folder))
    plan.onProgress({ message: `${what} in the cache cannot be used (${reason}); replacing` });
}

/** Work folders of an installation that was killed; the lock says that none is in use. */
async function removeLeftovers(root: string): Promise<void> {
  const names = await readdir(root);
  const leftovers = names.filter((name) => name.startsWith(SCRATCH));
  await Promise.all(leftovers.map((name) => rm(join(root, name), { recursive: true, force: true })));
}

/** Says how much room the installation takes, before anything is downloaded. @throws EngineError if it is not there. */
async function mustHaveSpace({ root, release, onProgress }: Plan, downloads: string): Promise<void> {
  const wheels = wheelsOf(release);
  const presentBytes = await Promise.all(
    wheels.map(async ({ file, bytes }) => {
      const status = await stat(join(downloads, file)).catch(() => undefined);
      return status?.size === bytes ? bytes : 0;
    }),
  );
  const downloadBytes = bytesOf(wheels) - presentBytes.reduce((sum, bytes) => sum + bytes, 0);
  const neededBytes = downloadBytes + release.unpackedBytes;
  const { bavail, bsize } = await statfs(root);
  const freeBytes = bavail * bsize;
  const gigabytes = (count: number): string => (count / 1e9).toFixed(1);
  if (freeBytes < neededBytes) {
    throw new EngineError(
      `the engine (${release.variant}) needs ${gigabytes(neededBytes)} GB in ${root} while it is being installed, ` +
        `${gigabytes(release.unpackedBytes)} GB afterwards, and ${gigabytes(freeBytes)} GB are free: ` +
        `${gigabytes(neededBytes - freeBytes)} GB are missing; make room or set GALORE_CACHE_DIR to a folder on a ` +
        'larger disk',
    );
  }
  onProgress({
    message:
      `${contentOf(release)} (${release.variant}): ${gigabytes(downloadBytes)} GB to download, ` +
      `${gigabytes(neededBytes)} GB of disk meanwhile, ${gigabytes(release.unpackedBytes)} GB afterwards, in ${root}`,
  });
}
