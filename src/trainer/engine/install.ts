/**
 * Installs the tensor engine: TensorFlow's libraries and the addon that joins them to Node, in the cache of the
 * user, linked into the tfjs package. Every stage ends in a rename, so that an interrupted installation goes on
 * where it stopped; a lock makes two at once safe. docs/decisions/0001-engine.md explains the choices.
 *
 *     <cache>/engine/downloads/            a wheel that arrived and was not unpacked yet
 *     <cache>/engine/libraries/<release>/  tensorflow/ (libraries, headers), nvidia/ (gpu), manifest.json
 *     <cache>/engine/<key>/                napi-v8/ (what tfjs loads), manifest.json
 *     <cache>/engine/variant               what was last asked for: cpu or gpu
 */
import { createHash, randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, readdir, rm, statfs, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { withLock } from '#scripts/lock';
import { replaceFolder, writeStamp } from '#scripts/stamp';
import { EngineError } from '../../errors.ts';
import { ADDON_FILES, addonSourcesHash, compileAddon, tfjsPackageDir, tfjsVersion } from './compile.ts';
import { fetchWheel, installCompanions, unpackWheel } from './fetch.ts';
import { filesUnder, findDamage, writeManifest, type Thoroughness } from './manifest.ts';
import { isPlaced, place } from './place.ts';
import { thisHost, unsupportedPlatform, type Host } from './platform.ts';
import { missingTools, type Tool } from './prerequisites.ts';
import type { OnEngineProgress } from './progress.ts';
import { LIBRARY_FILES, RELEASES, libraryName, type EngineRelease, type EngineVariant } from './release.ts';

/** How the folders of work in progress are called. */
const SCRATCH = 'staging-';

/** What an installation does outside its cache; a test puts its own in place. */
export interface InstallSteps {
  readonly releases: Readonly<Record<EngineVariant, EngineRelease>>;
  readonly host: Host;
  readonly missingTools: typeof missingTools;
  readonly fetchWheel: typeof fetchWheel;
  readonly unpackWheel: typeof unpackWheel;
  readonly installCompanions: typeof installCompanions;
  readonly compileAddon: typeof compileAddon;
}

export interface EngineOptions {
  /** The cache folder of the user (src/config/environment.ts). */
  readonly cacheDir: string;
  /** Default: what was last asked for, and cpu before that. */
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
  /** The folder that tfjs loads the addon from. */
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
  const plan = await makePlan(options);
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
  if (options.variant) writeStamp(join(plan.root, 'variant'), options.variant);
  return { ...outcome, isChanged: !isAtHand };
}

async function makePlan(options: EngineOptions): Promise<Plan> {
  const steps: InstallSteps = {
    releases: RELEASES,
    host: options.steps?.host ?? thisHost(),
    missingTools,
    fetchWheel,
    unpackWheel,
    installCompanions,
    compileAddon,
    ...options.steps,
  };
  const root = join(options.cacheDir, 'engine');
  const release = steps.releases[options.variant ?? (await chosenVariant(root))];
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

async function chosenVariant(root: string): Promise<EngineVariant> {
  const text = await readFile(join(root, 'variant'), 'utf8').catch(() => '');
  return text.trim() === 'gpu' ? 'gpu' : 'cpu';
}

/** Names everything the compiled addon depends on: two engines with one key are the same. */
function engineKey(release: EngineRelease, packageDir: string, host: Host): string {
  const system = `${host.platform}-${host.arch}-glibc${host.glibc ?? ''}`;
  const sources = `${release.wheel.sha256}\n${addonSourcesHash(packageDir)}`;
  const hash = createHash('sha256').update(sources).digest('hex').slice(0, 12);
  return `${release.variant}-${release.version}-tfjs-${tfjsVersion(packageDir)}-${system}-${hash}`;
}

async function findWork(plan: Plan): Promise<Work> {
  const [library, addon, placed] = await Promise.all([
    findDamage(plan.libraryDir, plan.thoroughness),
    findDamage(plan.engineDir, plan.thoroughness),
    isPlaced(plan.packageDir, join(plan.engineDir, 'napi-v8')),
  ]);
  return { library, addon, isPlaced: placed };
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
  await place(plan.packageDir, join(plan.engineDir, 'napi-v8'));
  plan.onProgress({ message: `TensorFlow ${plan.release.version} (${plan.release.variant}) is in place` });
}

async function installLibrary(plan: Plan, reason: string): Promise<void> {
  const { release, root, steps } = plan;
  explain(plan, plan.libraryDir, 'the TensorFlow libraries', reason);
  await mustHaveSpace(root, release.diskBytes);
  const downloads = join(root, 'downloads');
  await mkdir(downloads, { recursive: true });
  const megabytes = Math.round(release.wheel.bytes / 1e6);
  const wheel = await withShare(
    plan,
    `downloading TensorFlow ${release.version} (${megabytes} MB, once per user)`,
    (onShare) => steps.fetchWheel(release.wheel, downloads, onShare),
  );
  await withScratch(plan, async (scratch) => {
    const fresh = join(scratch, 'library');
    await mkdir(fresh);
    plan.onProgress({ message: 'unpacking TensorFlow' });
    await steps.unpackWheel(wheel, fresh);
    if (release.companions.length > 0) {
      await withShare(
        plan,
        'installing the NVIDIA libraries (1.9 GB to download, once per user)',
        (onShare) => steps.installCompanions(release, fresh, scratch, onShare),
      );
    }
    await writeManifest(fresh, await libraryFiles(fresh));
    replaceFolder(fresh, plan.libraryDir);
  });
  await rm(downloads, { recursive: true, force: true });
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

function withShare<T>(
  plan: Plan,
  message: string,
  action: (onShare: (share: number) => void) => Promise<T>,
): Promise<T> {
  plan.onProgress({ message, share: 0 });
  return action((share) => {
    plan.onProgress({ message, share });
  });
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

async function mustHaveSpace(root: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(root);
  if (bavail * bsize >= bytes) return;
  const gigabytes = (count: number) => (count / 1e9).toFixed(1);
  throw new EngineError(
    `the engine needs ${gigabytes(bytes)} GB in ${root}, and ${gigabytes(bavail * bsize)} GB are free; ` +
      'make room or set GALORE_CACHE_DIR to a folder on a larger disk',
  );
}
